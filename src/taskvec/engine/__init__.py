"""Merging: plan, fold, merge; the writer of the checkpoint room streams what comes out."""

"""Task vectors: extract, store, add, subtract and merge fine-tuned checkpoints, exactly and out of core."""

__version__ = "0.1.0.dev0"

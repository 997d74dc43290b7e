"""A point in weight space: lazy readers, layout, fingerprint, streaming writer."""

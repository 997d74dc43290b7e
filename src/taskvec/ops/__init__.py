"""Pure kernels on arrays: no names, no files, no models."""

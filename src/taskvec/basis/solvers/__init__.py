"""The solvers, one a file, registered under their own names."""

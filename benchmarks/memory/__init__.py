"""Peak memory of a large extract; see `benchmark`."""

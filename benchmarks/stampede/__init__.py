"""`stampede`: many identical requests for data that no cache holds."""

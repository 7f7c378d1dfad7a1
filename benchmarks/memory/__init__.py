"""`memory` and `details`: peak memory of a large extract."""

"""The HTTP API, and the queue and workers of what it cannot answer at once."""

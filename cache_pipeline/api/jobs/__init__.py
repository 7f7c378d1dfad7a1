"""Jobs of the HTTP API: their rows, their queue and their workers."""

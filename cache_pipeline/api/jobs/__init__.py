"""Jobs of the HTTP API: their rows in PostgreSQL, their message queue and their workers."""

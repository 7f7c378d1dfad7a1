"""The HTTP API, with the queue and the workers for queries that stored data cannot answer."""

"""`keys`: one cache key for every spelling of a query, and the cost of a key."""

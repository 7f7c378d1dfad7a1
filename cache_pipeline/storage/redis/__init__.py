"""What lives in Redis: hot answers, single flight and demand counters."""

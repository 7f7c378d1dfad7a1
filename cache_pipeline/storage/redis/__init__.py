"""What is stored in Redis: hot answers, single-flight locks and demand counters."""

"""`quota`: several processes and OAuth clients against one vendor that enforces its sliding window."""

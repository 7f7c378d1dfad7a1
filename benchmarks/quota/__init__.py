"""`quota`: several processes and OAuth clients under a vendor that enforces a sliding window."""

"""Pure rules: report declarations, the meaning of queries, and the algebra of intervals. No I/O and no clock."""

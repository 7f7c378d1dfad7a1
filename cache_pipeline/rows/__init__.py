"""Rows as a stream of batches: counted and digested by bucket, in memory while few and on disk while many."""

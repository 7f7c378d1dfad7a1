"""Rows as a stream of batches: counted and digested by bucket, kept in memory while few and on disk while many."""

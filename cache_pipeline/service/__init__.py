"""Answering queries: what is stored already, what must be fetched, and the answer made of both."""

"""`api`: hot reads through the HTTP API beside a bare route, and many identical misses at once."""

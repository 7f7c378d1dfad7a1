"""Hot reads through the HTTP API beside a bare route, and a crowd that misses at once."""

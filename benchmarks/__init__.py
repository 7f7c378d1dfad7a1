"""Benchmarks: each measures this project and its peers side by side, in one run, against the best possible figure if known."""

"""Side-by-side measurements: each benchmark runs this project, its peers and, where there is one, the limit, in one run."""

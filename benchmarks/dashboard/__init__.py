"""`dashboard`: the executives' page on a narrow line, beside the same figures read by duckdb-wasm."""

"""`dashboard`: the executives' page on a slow network, beside the same figures read by duckdb-wasm."""

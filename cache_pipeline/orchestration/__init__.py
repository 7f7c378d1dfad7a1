"""Dagster over the engine: reports as assets, report intervals as partitions. Thin; every decision lies below."""

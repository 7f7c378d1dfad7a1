"""Dagster definitions: reports as assets, report intervals as partitions.

Modules here translate between Dagster and the services below. What to fetch next is decided by the pure functions in
``decisions``; how it is fetched, verified and stored belongs in ``fetch`` and ``service``.
"""

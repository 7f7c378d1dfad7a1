"""A report service on real servers, with the simulated vendor behind it."""

from cache_pipeline_tests.world import open_world

__all__ = ["open_world"]

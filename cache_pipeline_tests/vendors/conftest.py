"""Fixtures: a real Redis, and a clock that only tests advance."""

from cache_pipeline_tests.upstream.conftest import clock, cluster_redis, shared_redis

__all__ = ["clock", "cluster_redis", "shared_redis"]

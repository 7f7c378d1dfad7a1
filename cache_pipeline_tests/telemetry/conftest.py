"""The HTTP API and its worker, to be listened to."""

from cache_pipeline_tests.gateway.conftest import open_api

__all__ = ["open_api"]

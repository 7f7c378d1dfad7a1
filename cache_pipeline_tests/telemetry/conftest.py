"""The HTTP API and its worker, to be listened to."""

from cache_pipeline_tests.api.conftest import open_api
from cache_pipeline_tests.telemetry.spans import finished

__all__ = ["finished", "open_api"]

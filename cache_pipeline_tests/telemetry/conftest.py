"""Fixtures: the HTTP API with its worker, and the spans of the process."""

from cache_pipeline_tests.api.conftest import open_api
from cache_pipeline_tests.telemetry.spans import finished_spans

__all__ = ["finished_spans", "open_api"]

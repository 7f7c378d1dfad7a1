"""Python client of the HTTP API: query a report, follow its job if there is one, and get Arrow or pandas.

The client needs only httpx, pandas and pyarrow, and imports nothing else of this package.
"""

from cache_pipeline.client.answer import (
    ApiError,
    ApiUnavailable,
    ClientAnswer,
    ClientJobFailed,
    KeyRefused,
    ProgressReport,
    QueryRefused,
    UnexpectedResponse,
)
from cache_pipeline.client.async_client import AsyncClient
from cache_pipeline.client.sync_client import Client

__all__ = [
    "ApiError",
    "ApiUnavailable",
    "AsyncClient",
    "Client",
    "ClientAnswer",
    "ClientJobFailed",
    "KeyRefused",
    "ProgressReport",
    "QueryRefused",
    "UnexpectedResponse",
]

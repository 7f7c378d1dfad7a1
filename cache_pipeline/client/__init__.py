"""A client of the HTTP API: ask, follow the job where there is one, get Arrow or pandas.

It needs httpx and pyarrow alone, and nothing of the pipeline itself.
"""

from cache_pipeline.client.answer import ApiError, ClientAnswer, ClientJobFailed, ProgressReport
from cache_pipeline.client.async_client import AsyncClient
from cache_pipeline.client.sync_client import Client

__all__ = ["ApiError", "AsyncClient", "Client", "ClientAnswer", "ClientJobFailed", "ProgressReport"]

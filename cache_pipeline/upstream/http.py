"""The one place that imports the HTTP library: change both names below to use a fork with the same interface.

Use it as ``from cache_pipeline.upstream.http import httpx``; type checkers see the library itself. It is imported when it is
first used, because declarations are checked by modules that also send requests.
"""

from typing import TYPE_CHECKING

from cache_pipeline.lazy_imports import LazyModule

__all__ = ["httpx"]

if TYPE_CHECKING:
    import httpx as httpx
else:
    httpx = LazyModule("httpx")

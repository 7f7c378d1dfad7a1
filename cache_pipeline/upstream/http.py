"""The one place that imports the HTTP library: change the import below to use a fork with the same interface.

Use it as ``from cache_pipeline.upstream.http import httpx``; type checkers see the library itself.
"""

import httpx as httpx

__all__ = ["httpx"]

"""The one place that names the HTTP library: a fork with the same interface drops in by changing the import below.

Use it as ``from cache_pipeline.upstream.http import httpx``; types and checkers see the library itself.
"""

import httpx as httpx

__all__ = ["httpx"]

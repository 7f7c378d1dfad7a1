"""The edge tier: immutable Parquet files and one small manifest on a static store, for a CDN to serve.

A file is named by its content and never overwritten: a reader in the middle of an overwritten file would mix two versions
without noticing.
"""

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.edge_tier import EdgeTier, Publication

__all__ = ["EdgeStoreError", "EdgeTier", "Publication"]

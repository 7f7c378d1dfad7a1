"""The errors of cache_pipeline: one tree under one root."""


class CachePipelineError(Exception):
    """Any error of this package."""

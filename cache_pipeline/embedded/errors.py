"""The only error class of this package, which imports nothing from the rest of cache_pipeline."""


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot run; the message names the cause, the place and the remedy."""

"""Run a real PostgreSQL and Valkey from wheels, for the demo and tests, where no server URL is configured."""

from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.servers import EmbeddedServers, embedded_servers

__all__ = ["EmbeddedServerError", "EmbeddedServers", "embedded_servers"]

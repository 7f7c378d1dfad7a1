"""A real PostgreSQL and a real Valkey out of wheels, for the demo and the tests, where no URL is given."""

from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.servers import EmbeddedServers, embedded_servers

__all__ = ["EmbeddedServerError", "EmbeddedServers", "embedded_servers"]

"""A client of Redis Cluster that behaves as one of a single server: it connects when first used, and sends a command once."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self

from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, SlotNotCoveredError

#: Pipelines and subscriptions take connections beyond the limit of single commands.
_SPARE_CONNECTIONS: Final = 32
#: Keys tried until every primary has one. The chance that one of a hundred primaries is missed is below 1e-40.
_MAX_PROBE_KEYS: Final = 10_000


class ClusterClient(RedisCluster):
    """A client of all servers of a cluster.

    The library's own client connects when it is opened, sends a command again after a timeout, which would count twice, and
    fails when many callers want a connection. This one does not connect before it is used, leaves retries to the callers,
    and lets callers wait. `MULTI` is not used through it: scripts serve instead.

    Args:
        max_connections: The largest number of commands at once.
        options: Options of the library's client.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(
            max_connections=max_connections + _SPARE_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
            # Each redirection corrects one slot. Reading the whole map again would close connections that others use.
            reinitialize_steps=0,
            **options,
        )
        self._slots_free = asyncio.Semaphore(max_connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await super().aclose()
        # After a failure the library believes that nothing is open.
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")

    async def initialize(self, *arguments: Any, **options: Any) -> ClusterClient:
        """Read which server has which slot, unless that is known."""
        try:
            await super().initialize(*arguments, **options)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self

    async def refresh(self) -> None:
        """Read again which server has which slot."""
        await self.initialize()
        try:
            await self.nodes_manager.initialize()
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send a command to the server that has its key."""
        async with self._slots_free:
            try:
                return await super().execute_command(*arguments, **options)
            except SlotNotCoveredError as error:
                raise RedisConnectionError(str(error)) from error

    async def keys_of_primaries(self, name: str) -> list[str]:
        """Return keys that begin with a name, one for each primary."""
        await self.initialize()
        primaries = len(self.get_primaries())
        found: dict[str, str] = {}
        for number in range(_MAX_PROBE_KEYS):
            key = f"{name}:{{{number}}}"
            node = self.get_node_from_key(key)
            if node is not None:
                found.setdefault(node.name, key)
            if len(found) == primaries:
                break
        return list(found.values())

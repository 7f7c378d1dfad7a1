"""Open connections to Redis that survive a failover, for `storage` and `upstream` alike.

Three kinds of URL are understood:

- ``redis://``, ``rediss://`` and ``unix://`` name one server, or an address that is moved to another server in a failover;
- ``redis+sentinel://[user:password@]host[:port][,host…]/service[/db]`` names the Sentinels that know which server is the
  primary (``rediss+sentinel://`` if the servers use TLS). ``sentinel_username`` and ``sentinel_password`` in its query are for
  the Sentinels, the credentials before the ``@`` for the servers;
- ``redis+cluster://[user:password@]host[:port][,host…]`` names some servers of a Redis Cluster, which name the others
  (``rediss+cluster://`` with TLS).

Scripts and pipelines are sent so that they work on all three: the keys of one script are in one hash slot.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from cache_pipeline.errors import SettingsError
from cache_pipeline.redis_cluster import ClusterClient

_SENTINEL_SCHEMES: Final = {"redis+sentinel": False, "rediss+sentinel": True}
_SENTINEL_PORT: Final = 26379
_CLUSTER_SCHEMES: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_CLUSTER_PORT: Final = 6379
#: Connections of one process. A caller waits for one instead of failing.
_MAX_CONNECTIONS: Final = 32
_POOL_TIMEOUT_SECONDS: Final = 20.0
_CONNECT_TIMEOUT_SECONDS: Final = 2.0
#: A server that accepts connections but does not respond must not delay an answer that history holds.
_TIMEOUT_SECONDS: Final = 5.0
#: Written by `check_writable`; it expires by itself.
_HEALTH_KEY: Final = "cache_pipeline:health"
_HEALTH_MILLISECONDS: Final = 60_000
#: A script, because TIME alone has no key: in a cluster any server would answer.
_TIME: Final = "return redis.call('TIME')"


def open_redis(
    url: str, *, max_connections: int = _MAX_CONNECTIONS, timeout_seconds: float = _TIMEOUT_SECONDS
) -> Redis:
    """Return a client with connections of its own, which are opened when it is first used. Close it after use.

    The connections are replaced when a server stops accepting writes.

    Args:
        url: URL of the server, of the Sentinels or of the cluster.
        max_connections: The largest number of connections; of a cluster, of commands at once to all of its servers.
        timeout_seconds: How long to wait for an answer.

    Raises:
        SettingsError: The URL cannot be parsed.
    """
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "socket_connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": timeout_seconds,
    }
    parts = _split(url)
    if parts.scheme in _CLUSTER_SCHEMES:
        # The library's two clients have no common type; all commands that this package uses are the same.
        return cast("Redis", _open_cluster(parts, options))
    options["timeout"] = _POOL_TIMEOUT_SECONDS
    if parts.scheme in _SENTINEL_SCHEMES:
        return Redis.from_pool(_sentinel_pool(parts, options))
    options |= _parse_server_url(url)
    options["connection_class"] = _FOLLOWING[options.get("connection_class", Connection)]
    return Redis.from_pool(_FailoverPool(**options))


async def check_writable(redis: Redis) -> None:
    """Write a key that expires, because a server that was demoted, is full or cannot save still answers a PING.

    Of a cluster, every primary is written to.

    Raises:
        redis.exceptions.RedisError: It cannot be reached, or accepts no writes.
    """
    keys = await redis.keys_of_primaries(_HEALTH_KEY) if isinstance(redis, ClusterClient) else [_HEALTH_KEY]
    await asyncio.gather(*(redis.set(key, 1, px=_HEALTH_MILLISECONDS) for key in keys))


async def server_time(redis: Redis, key: str) -> float:
    """Return the seconds since the epoch by the clock of the server that has a key."""
    seconds, microseconds = cast("tuple[bytes, bytes]", await cast("Any", redis.eval(_TIME, 1, key)))
    return int(seconds) + int(microseconds) / 1e6


async def server_information(redis: Redis) -> list[Mapping[str, Any]]:
    """Return what INFO says of the version and memory of the server, or of each primary of a cluster."""
    sections = ("server", "memory")
    if not isinstance(redis, ClusterClient):
        return [{name: value for section in sections for name, value in (await redis.info(section)).items()}]
    await redis.refresh()
    return [
        {
            name: value
            for section in sections
            for name, value in (await cast("Any", redis).info(section, target_nodes=node)).items()
        }
        for node in redis.get_primaries()
    ]


@asynccontextmanager
async def subscription_to(redis: Redis, channel: str) -> AsyncGenerator[PubSub]:
    """Subscribe to a channel while the block lasts. Subscribe again after an error: the server may have been replaced."""
    if isinstance(redis, ClusterClient):
        await redis.refresh()
    async with redis.pubsub() as subscription:
        await subscription.subscribe(channel)
        yield subscription


def server_hosts(url: str) -> list[str]:
    """Return the hosts that a URL names; none for a local socket."""
    parts = _split(url)
    if parts.scheme in _SENTINEL_SCHEMES or parts.scheme in _CLUSTER_SCHEMES:
        return [host for host, _ in _addresses(parts, _SENTINEL_PORT)]
    return [parts.hostname] if parts.hostname else []


def is_refused_write(error: BaseException) -> bool:
    """Return whether an error says that the server accepts no writes: a replica, full, unable to save, or without its replicas."""
    return isinstance(error, ReadOnlyError | OutOfMemoryError) or (
        isinstance(error, ResponseError) and str(error).startswith(("MISCONF", "NOREPLICAS"))
    )


class _FollowsFailover(AbstractConnection):
    """Remembers that its server accepts no writes, so that the pool connects again."""

    refuses_writes = False

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if is_refused_write(error):
                self.refuses_writes = True
            raise


class _FollowingConnection(_FollowsFailover, Connection):
    """A connection over TCP."""


class _FollowingSslConnection(_FollowsFailover, SSLConnection):
    """A connection over TLS."""


class _FollowingSocketConnection(_FollowsFailover, UnixDomainSocketConnection):
    """A connection over a local socket."""


_FOLLOWING: Final[dict[type[AbstractConnection], type[_FollowsFailover]]] = {
    Connection: _FollowingConnection,
    SSLConnection: _FollowingSslConnection,
    UnixDomainSocketConnection: _FollowingSocketConnection,
}


class _FollowingSentinelConnection(_FollowsFailover, SentinelManagedConnection):
    """A connection to the primary that the Sentinels name."""


class _FollowingSentinelSslConnection(_FollowsFailover, SentinelManagedSSLConnection):
    """A connection over TLS to the primary that the Sentinels name."""


class _FailoverPool(BlockingConnectionPool):
    """Drops its connections when the server of one of them accepts no writes any more.

    Otherwise every pooled connection would stay on the former primary for as long as that server runs.
    """

    async def release(self, connection: AbstractConnection) -> None:
        if not (isinstance(connection, _FollowsFailover) and connection.refuses_writes):
            await super().release(connection)
            return
        connection.refuses_writes = False
        await connection.disconnect()
        await super().release(connection)
        await self.disconnect(inuse_connections=False)


class _SentinelPool(SentinelConnectionPool, _FailoverPool):
    """The same for the primary that the Sentinels name. A caller waits for a connection instead of failing."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own signature
        await super().disconnect(inuse_connections)
        if inuse_connections:
            # At the end; the library leaves the connections to the Sentinels open.
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def _sentinel_pool(parts: SplitResult, options: dict[str, Any]) -> _SentinelPool:
    query = dict(parse_qsl(parts.query))
    credentials = {"username": parts.username, "password": parts.password}
    timeouts = {name: options[name] for name in ("socket_connect_timeout", "socket_timeout")}
    sentinel = Sentinel(
        _addresses(parts, _SENTINEL_PORT),
        sentinel_kwargs=timeouts
        | {name: query[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in query},
    )
    service, _, database = parts.path.strip("/").partition("/")
    database = database or query.get("db", "0")
    if not service or not database.isdigit():
        raise SettingsError(
            "CACHE_PIPELINE_REDIS_URL: expected redis+sentinel://host:port,host:port/service or …/service/database number"
        )
    is_encrypted = _SENTINEL_SCHEMES[parts.scheme]
    return _SentinelPool(
        unquote(service),
        sentinel,
        connection_class=_FollowingSentinelSslConnection if is_encrypted else _FollowingSentinelConnection,
        db=int(database),
        **{name: unquote(value) for name, value in credentials.items() if value},
        **options,
    )


def _open_cluster(parts: SplitResult, options: dict[str, Any]) -> ClusterClient:
    if parts.path.strip("/") not in ("", "0"):
        raise SettingsError(
            "CACHE_PIPELINE_REDIS_URL: a cluster has no numbered databases; expected redis+cluster://host:port,host:port"
        )
    first, *others = _addresses(parts, _CLUSTER_PORT)
    credentials, _, _ = parts.netloc.rpartition("@")
    host = f"[{first[0]}]" if ":" in first[0] else first[0]
    netloc = f"{credentials}@{host}:{first[1]}" if credentials else f"{host}:{first[1]}"
    server = parts._replace(scheme=_CLUSTER_SCHEMES[parts.scheme], netloc=netloc, path="")
    options |= _parse_server_url(server.geturl())
    is_encrypted = options.pop("connection_class", None) is SSLConnection
    nodes = [ClusterNode(*address) for address in others]
    return ClusterClient(startup_nodes=nodes, ssl=is_encrypted, **options)


def _parse_server_url(url: str) -> dict[str, Any]:
    try:
        return dict(parse_url(url))
    except (ValueError, TypeError):
        # The library's message may quote the URL, password included.
        raise SettingsError(
            "CACHE_PIPELINE_REDIS_URL: cannot be parsed; expected redis://, rediss://, unix://, redis+sentinel:// or "
            "redis+cluster://"
        ) from None


def _addresses(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Return host and port of every server that a URL names."""
    found: list[tuple[str, int]] = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", address)
        if match is None:
            raise SettingsError(
                "CACHE_PIPELINE_REDIS_URL: expected host or host:port for each server, separated by commas"
            )
        found.append((match[1].strip("[]"), int(match[2] or default_port)))
    return found


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise SettingsError("CACHE_PIPELINE_REDIS_URL: cannot be parsed as a URL") from None

"""Open connections to Redis that survive a failover, for `storage` and `upstream` alike.

Two kinds of URL are understood:

- ``redis://``, ``rediss://`` and ``unix://`` name one server, or an address that is moved to another server in a failover;
- ``redis+sentinel://[user:password@]host[:port][,host…]/service[/db]`` names the Sentinels that know which server is the
  primary (``rediss+sentinel://`` if the servers use TLS). ``sentinel_username`` and ``sentinel_password`` in its query are for
  the Sentinels, the credentials before the ``@`` for the servers.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
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

_SENTINEL_SCHEMES: Final = {"redis+sentinel": False, "rediss+sentinel": True}
_SENTINEL_PORT: Final = 26379
#: Connections of one process. A caller waits for one instead of failing.
_MAX_CONNECTIONS: Final = 32
_POOL_TIMEOUT_SECONDS: Final = 20.0
_CONNECT_TIMEOUT_SECONDS: Final = 2.0
#: A server that accepts connections but does not respond must not delay an answer that history holds.
_TIMEOUT_SECONDS: Final = 5.0
#: Written by `check_writable`; it expires by itself.
_HEALTH_KEY: Final = "cache_pipeline:health"
_HEALTH_MILLISECONDS: Final = 60_000


def open_redis(url: str, *, max_connections: int = _MAX_CONNECTIONS) -> Redis:
    """Return a client with a pool of its own. Close it after use.

    Args:
        url: URL of the server, or of the Sentinels.
        max_connections: The largest number of connections.

    Raises:
        SettingsError: The URL cannot be parsed.
    """
    return Redis.from_pool(connection_pool(url, max_connections=max_connections))


def connection_pool(
    url: str, *, max_connections: int = _MAX_CONNECTIONS, timeout_seconds: float = _TIMEOUT_SECONDS
) -> BlockingConnectionPool:
    """Return a pool of connections that are replaced when the server stops accepting writes.

    Args:
        url: URL of the server, or of the Sentinels.
        max_connections: The largest number of connections.
        timeout_seconds: How long to wait for an answer.

    Raises:
        SettingsError: The URL cannot be parsed.
    """
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "timeout": _POOL_TIMEOUT_SECONDS,
        "socket_connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": timeout_seconds,
    }
    parts = _split(url)
    if parts.scheme in _SENTINEL_SCHEMES:
        return _sentinel_pool(parts, options)
    try:
        options |= parse_url(url)
    except (ValueError, TypeError):
        # The library's message may quote the URL, password included.
        raise SettingsError(
            "CACHE_PIPELINE_REDIS_URL: cannot be parsed; expected redis://, rediss://, unix:// or redis+sentinel://"
        ) from None
    options["connection_class"] = _FOLLOWING[options.get("connection_class", Connection)]
    return _FailoverPool(**options)


async def check_writable(redis: Redis) -> None:
    """Write a key that expires, because a server that was demoted, is full or cannot save still answers a PING.

    Raises:
        redis.exceptions.RedisError: It cannot be reached, or accepts no writes.
    """
    await redis.set(_HEALTH_KEY, 1, px=_HEALTH_MILLISECONDS)


def server_hosts(url: str) -> list[str]:
    """Return the hosts that a URL names; none for a local socket."""
    parts = _split(url)
    if parts.scheme in _SENTINEL_SCHEMES:
        return [host for host, _ in _addresses(parts)]
    return [parts.hostname] if parts.hostname else []


def is_refused_write(error: BaseException) -> bool:
    """Return whether an error says that the server accepts no writes: a replica, full, or unable to save."""
    return isinstance(error, ReadOnlyError | OutOfMemoryError) or (
        isinstance(error, ResponseError) and str(error).startswith("MISCONF")
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
        _addresses(parts),
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


def _addresses(parts: SplitResult) -> list[tuple[str, int]]:
    """Return host and port of every Sentinel."""
    found: list[tuple[str, int]] = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", address)
        if match is None:
            raise SettingsError(
                "CACHE_PIPELINE_REDIS_URL: expected host or host:port for each Sentinel, separated by commas"
            )
        found.append((match[1].strip("[]"), int(match[2] or _SENTINEL_PORT)))
    return found


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise SettingsError("CACHE_PIPELINE_REDIS_URL: cannot be parsed as a URL") from None

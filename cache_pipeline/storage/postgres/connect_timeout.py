"""Bounds the time of each attempt to connect, whichever driver makes it."""

from __future__ import annotations

#: libpq itself waits without end for a server that accepts a connection and is silent, and minutes where packets are dropped.
CONNECT_SECONDS = 10


def with_connect_timeout(postgres_url: str) -> str:
    """Return a URL, or a string of libpq's keywords, with a bound on the time to connect to each of its hosts, unless it has one."""
    if "connect_timeout" in postgres_url:
        return postgres_url
    if "://" not in postgres_url:
        return f"{postgres_url} connect_timeout={CONNECT_SECONDS}"
    return f"{postgres_url}{'&' if '?' in postgres_url else '?'}connect_timeout={CONNECT_SECONDS}"

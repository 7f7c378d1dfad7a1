"""API keys: who calls, and which reports they may query. Only a hash of a key is stored, so a key cannot be read back."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.api.jobs.job_store import Pool
from cache_pipeline.query.lane import Lane

_PREFIX = "cp"
#: Six random bytes in hexadecimal, and 32 in URL-safe base 64.
_KEY_FORM = re.compile(rf"{_PREFIX}_[0-9a-f]{{12}}_[A-Za-z0-9_-]{{43}}")
#: How long a key is cached, and so how long a revoked key may still work.
_CACHE_SECONDS = 5.0
_MAX_CACHED_KEYS, _MAX_CACHED_REFUSALS = 10_000, 256
#: Compared with the hash of a key that does not exist.
_NO_HASH = b"\0" * 32

_INSERT = """
    INSERT INTO cache_pipeline_state.api_key (id, name, hash, tenant, reports, lane, requests_per_minute, may_refresh)
    VALUES (%(id)s, %(name)s, %(hash)s, %(tenant)s, %(reports)s, %(lane)s, %(requests_per_minute)s, %(may_refresh)s)
"""
_FIND = """
    SELECT id, hash, tenant, reports, lane, requests_per_minute, may_refresh FROM cache_pipeline_state.api_key
    WHERE id = %(id)s AND revoked_at IS NULL
"""
_LIST = """
    SELECT id, name, tenant, reports, lane, requests_per_minute, may_refresh, created_at, revoked_at
    FROM cache_pipeline_state.api_key ORDER BY created_at
"""
_REVOKE = """
    UPDATE cache_pipeline_state.api_key SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL RETURNING id
"""


@dataclass(frozen=True)
class Principal:
    """The caller of a request, as its API key identifies it.

    Attributes:
        id: Id of the key.
        tenant: The tenant whose data it sees.
        reports: Names of the reports it may query, or None for all.
        lane: Priority of its queries to the vendor.
        requests_per_minute: Its rate limit, or None for the default of the settings.
        may_refresh: Whether it may have figures refetched from the vendor before the stored ones are stale.
    """

    id: str
    tenant: str
    reports: frozenset[str] | None
    lane: Lane
    requests_per_minute: int | None = None
    may_refresh: bool = False

    def may_query(self, report: str) -> bool:
        """Return whether the caller may query a report."""
        return self.reports is None or report in self.reports


@dataclass(frozen=True)
class ApiKeyInfo:
    """The parts of a key that may be shown."""

    id: str
    name: str
    tenant: str
    reports: tuple[str, ...] | None
    lane: Lane
    requests_per_minute: int | None
    may_refresh: bool
    created_at: datetime
    revoked_at: datetime | None


def _hash(secret: str) -> bytes:
    # The secret is 256 random bits, so a slow hash, which hinders guessing, is not needed.
    return hashlib.sha256(secret.encode()).digest()


class ApiKeyStore:
    """API keys in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, name: str, principal: Principal) -> str:
        """Create a key for a principal and return it. The principal's id is replaced, and the key cannot be shown again."""
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        async with self._pool.connection() as connection:
            await connection.execute(
                _INSERT.encode(),
                {
                    "id": key_id,
                    "name": name,
                    "hash": _hash(secret),
                    "tenant": principal.tenant,
                    "reports": sorted(principal.reports) if principal.reports is not None else None,
                    "lane": principal.lane,
                    "requests_per_minute": principal.requests_per_minute,
                    "may_refresh": principal.may_refresh,
                },
            )
        return f"{_PREFIX}_{key_id}_{secret}"

    async def find(self, key: str) -> Principal | None:
        """Return the principal of a key, or None if the key is unknown or revoked."""
        if not _KEY_FORM.fullmatch(key):
            return None
        _, key_id, secret = key.split("_", 2)
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_FIND.encode(), {"id": key_id})).fetchone()
        # Compare in every case and in constant time, so that the response time reveals nothing.
        is_equal = hmac.compare_digest(_hash(secret), bytes(row["hash"]) if row else _NO_HASH)
        if row is None or not is_equal:
            return None
        reports = row["reports"]
        return Principal(
            id=row["id"],
            tenant=row["tenant"],
            reports=frozenset(reports) if reports is not None else None,
            lane=Lane(row["lane"]),
            requests_per_minute=row["requests_per_minute"],
            may_refresh=row["may_refresh"],
        )

    async def all(self) -> list[ApiKeyInfo]:
        """Return every key, including revoked ones, in order of creation."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_LIST.encode())).fetchall()
        return [
            ApiKeyInfo(
                id=row["id"],
                name=row["name"],
                tenant=row["tenant"],
                reports=tuple(row["reports"]) if row["reports"] is not None else None,
                lane=Lane(row["lane"]),
                requests_per_minute=row["requests_per_minute"],
                may_refresh=row["may_refresh"],
                created_at=row["created_at"],
                revoked_at=row["revoked_at"],
            )
            for row in rows
        ]

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key. Return False if no working key has this id."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_REVOKE.encode(), {"id": key_id})).fetchone()
        return row is not None


class ApiKeyCache:
    """Caches the principals of keys for a few seconds, so that a hot read needs no query to PostgreSQL.

    Credentials that do not have the form of a key are refused and forgotten. The others are remembered by their digest, and
    refused ones apart, so that a caller without a key can neither fill memory nor displace the keys that work.
    """

    def __init__(self, store: ApiKeyStore, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._valid: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()

    async def find(self, key: str) -> Principal | None:
        """Return the principal of a key, or None if the key is unknown or revoked; both outcomes are cached."""
        if not _KEY_FORM.fullmatch(key):
            return None
        digest, now = _hash(key), self._now()
        principal, valid_until = self._valid.get(digest, (None, 0.0))
        if valid_until > now or self._refused.get(digest, 0.0) > now:
            return principal if valid_until > now else None
        principal = await self._store.find(key)
        self._valid.pop(digest, None)
        self._refused.pop(digest, None)
        if principal is not None:
            self._valid[digest] = (principal, now + _CACHE_SECONDS)
            while len(self._valid) > _MAX_CACHED_KEYS:
                self._valid.popitem(last=False)
        else:
            self._refused[digest] = now + _CACHE_SECONDS
            while len(self._refused) > _MAX_CACHED_REFUSALS:
                self._refused.popitem(last=False)
        return principal

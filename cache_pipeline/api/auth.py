"""API keys: who is asking, and what they may ask. Only a hash of a key is kept, so that nobody can read one out again."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.api.jobs.job_store import Pool
from cache_pipeline.query.lane import Lane

_PREFIX = "cp"
#: A revoked key works for so long at most.
_REMEMBERED_SECONDS = 5.0
_MOST_REMEMBERED = 10_000
_NOBODY = b"\0" * 32

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
    """Who is asking.

    Attributes:
        id: of the key.
        tenant: whose data it sees.
        reports: names it may ask for, or None for all.
        lane: of its queries to the vendor.
        requests_per_minute: its limit, or None for the gateway's.
        may_refresh: whether it may have the vendor asked again before what is kept is too old.
    """

    id: str
    tenant: str
    reports: frozenset[str] | None
    lane: Lane
    requests_per_minute: int | None = None
    may_refresh: bool = False

    def may_ask(self, report: str) -> bool:
        """Whether a report is among its own."""
        return self.reports is None or report in self.reports


@dataclass(frozen=True)
class ApiKeyInfo:
    """What may be shown of a key."""

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
    # The secret is 256 random bits: there is nothing to guess that a slow hash would have to hinder.
    return hashlib.sha256(secret.encode()).digest()


class ApiKeyStore:
    """The keys in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, name: str, principal: Principal) -> str:
        """Make a key for a principal, whose id is given anew; returns the key, which cannot be had again."""
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
        """Whose key it is; None where it is nobody's or was revoked."""
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != _PREFIX or not key_id.isalnum() or not secret or "\0" in key:
            return None
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_FIND.encode(), {"id": key_id})).fetchone()
        # Compared in any case, and in constant time, so that the time it takes tells nothing.
        same = hmac.compare_digest(_hash(secret), bytes(row["hash"]) if row else _NOBODY)
        if row is None or not same:
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
        """Every key there ever was, in order of making."""
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
        """End a key; False where there is none of that id that works."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_REVOKE.encode(), {"id": key_id})).fetchone()
        return row is not None


class ApiKeyCache:
    """Remembers for a few seconds whose keys are, so that a hot read costs no query to PostgreSQL."""

    def __init__(self, store: ApiKeyStore, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._remembered: OrderedDict[str, tuple[Principal | None, float]] = OrderedDict()

    def remembered(self, key: str) -> Principal | None:
        """Whose key it is, where that is known; without asking anybody."""
        found = self._remembered.get(key)
        return found[0] if found is not None and found[1] > self._now() else None

    async def find(self, key: str) -> Principal | None:
        """Whose key it is. That it is nobody's is remembered too."""
        found = self._remembered.get(key)
        if found is not None and found[1] > self._now():
            return found[0]
        principal = await self._store.find(key)
        self._remembered[key] = (principal, self._now() + _REMEMBERED_SECONDS)
        self._remembered.move_to_end(key)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

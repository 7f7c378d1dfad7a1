"""API keys and their access tokens in PostgreSQL. Only hashes are stored, so neither can be read back."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cache_pipeline.path_patterns import PathPattern
from cache_pipeline.query.lane import Lane
from cache_pipeline.storage.ports.api_keys import (
    KEY_FORM,
    KEY_PREFIX,
    TOKEN_FORM,
    TOKEN_PREFIX,
    ApiKeyInfo,
    Principal,
    hash_secret,
)
from cache_pipeline.storage.postgres.async_pool import Pool, connect

#: Compared with the hash of a key that does not exist.
_NO_HASH = b"\0" * 32

_INSERT = """
    INSERT INTO cache_pipeline_state.api_key
        (id, name, hash, tenant, reports, lane, requests_per_minute, may_refresh, is_operator, queries, paths, divisions,
         expires_at, lifetime)
    VALUES (%(id)s, %(name)s, %(hash)s, %(tenant)s, %(reports)s, %(lane)s, %(requests_per_minute)s, %(may_refresh)s,
            %(is_operator)s, %(queries)s, %(paths)s, %(divisions)s, %(expires_at)s,
            %(expires_at)s::timestamptz - now())
"""
_FIND = """
    SELECT id, hash, tenant, reports, lane, requests_per_minute, may_refresh, is_operator, queries, paths, divisions
    FROM cache_pipeline_state.api_key
    WHERE id = ANY(%(ids)s) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_FIND_KEY_OF_ACCESS = """
    SELECT token.hash AS token_hash, key.id, key.tenant, key.reports, key.lane, key.requests_per_minute, key.may_refresh, key.is_operator,
        key.queries, key.paths, key.divisions
    FROM cache_pipeline_state.access_token AS token JOIN cache_pipeline_state.api_key AS key ON key.id = token.key_id
    WHERE token.hash = ANY(%(hashes)s) AND token.expires_at > now() AND key.revoked_at IS NULL
        AND (key.expires_at IS NULL OR key.expires_at > now())
"""
#: A program that logs in for every request must not fill the table: only the newest tokens of a key are kept.
_MAX_TOKENS_PER_KEY = 1000
_PRUNE_ACCESS = """
    DELETE FROM cache_pipeline_state.access_token
    WHERE expires_at <= now() OR key_id = %(key_id)s AND issued_at <= (
        SELECT issued_at FROM cache_pipeline_state.access_token WHERE key_id = %(key_id)s
        ORDER BY issued_at DESC OFFSET %(kept)s LIMIT 1)
"""
_INSERT_ACCESS = """
    INSERT INTO cache_pipeline_state.access_token (hash, key_id, expires_at)
    VALUES (%(hash)s, %(key_id)s, now() + %(lifetime)s)
"""
_LIST = """
    SELECT id, name, tenant, reports, lane, requests_per_minute, may_refresh, is_operator, queries, paths, divisions,
        created_at, revoked_at, expires_at
    FROM cache_pipeline_state.api_key ORDER BY created_at
"""
#: The new key works for as long as the old one was created for, however that one's life was shortened, unless another time is given.
_COPY = """
    INSERT INTO cache_pipeline_state.api_key
        (id, name, hash, tenant, reports, lane, requests_per_minute, may_refresh, is_operator, queries, paths, divisions,
         expires_at, lifetime)
    SELECT %(new_id)s, name, %(hash)s, tenant, reports, lane, requests_per_minute, may_refresh, is_operator, queries, paths,
        divisions, coalesce(%(expires_at)s::timestamptz, now() + lifetime),
        coalesce(%(expires_at)s::timestamptz - now(), lifetime)
    FROM cache_pipeline_state.api_key
    WHERE id = %(id)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    RETURNING id
"""
_EXPIRE = """
    UPDATE cache_pipeline_state.api_key SET expires_at = least(expires_at, now() + %(overlap)s) WHERE id = %(id)s
"""
_REVOKE = """
    UPDATE cache_pipeline_state.api_key SET revoked_at = now()
    WHERE id = %(id)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    RETURNING id
"""


class PostgresApiKeyStore:
    """API keys in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, name: str, principal: Principal, expires_at: datetime | None = None) -> str:
        """Create a key for a principal and return it. The principal's id is replaced, and the key cannot be shown again."""
        key_id, secret = _new_key()
        async with connect(self._pool) as connection:
            await connection.execute(
                _INSERT.encode(),
                {
                    "id": key_id,
                    "name": name,
                    "hash": hash_secret(secret),
                    "tenant": principal.tenant,
                    "reports": _sorted_or_none(principal.reports),
                    "lane": principal.lane,
                    "requests_per_minute": principal.requests_per_minute,
                    "may_refresh": principal.may_refresh,
                    "is_operator": principal.is_operator,
                    "queries": _sorted_or_none(principal.queries),
                    "paths": None if principal.paths is None else [str(each) for each in principal.paths],
                    "divisions": _sorted_or_none(principal.divisions),
                    "expires_at": expires_at,
                },
            )
        return _join(key_id, secret)

    async def issue_token(self, key_id: str, lifetime: timedelta) -> str:
        """Create an access token of a key and return it; forget expired tokens, and the oldest of very many."""
        token = f"{TOKEN_PREFIX}_{secrets.token_urlsafe(32)}"
        async with connect(self._pool) as connection, connection.transaction():
            await connection.execute(_PRUNE_ACCESS.encode(), {"key_id": key_id, "kept": _MAX_TOKENS_PER_KEY - 1})
            await connection.execute(
                _INSERT_ACCESS.encode(), {"hash": hash_secret(token), "key_id": key_id, "lifetime": lifetime}
            )
        return token

    async def find(self, keys: Sequence[str]) -> list[Principal | None]:
        """Return the principal of each key or access token, or None if it is unknown, revoked or expired."""
        ids = [key.split("_", 2)[1] for key in keys if KEY_FORM.fullmatch(key)]
        hashes = [hash_secret(key) for key in keys if TOKEN_FORM.fullmatch(key)]
        by_id: dict[str, dict[str, Any]] = {}
        by_token: dict[bytes, dict[str, Any]] = {}
        if ids or hashes:
            async with connect(self._pool) as connection:
                if ids:
                    rows = await (await connection.execute(_FIND.encode(), {"ids": ids})).fetchall()
                    by_id = {row["id"]: row for row in rows}
                if hashes:
                    rows = await (await connection.execute(_FIND_KEY_OF_ACCESS.encode(), {"hashes": hashes})).fetchall()
                    by_token = {bytes(row["token_hash"]): row for row in rows}
        return [_find_principal(key, by_id, by_token) for key in keys]

    async def all(self) -> list[ApiKeyInfo]:
        """Return every key, including revoked and expired ones, in order of creation."""
        async with connect(self._pool) as connection:
            rows = await (await connection.execute(_LIST.encode())).fetchall()
        return [
            ApiKeyInfo(
                id=row["id"],
                name=row["name"],
                tenant=row["tenant"],
                reports=_tuple_or_none(row["reports"]),
                lane=Lane(row["lane"]),
                requests_per_minute=row["requests_per_minute"],
                may_refresh=row["may_refresh"],
                is_operator=row["is_operator"],
                queries=_tuple_or_none(row["queries"]),
                paths=_tuple_or_none(row["paths"]),
                divisions=_tuple_or_none(row["divisions"]),
                created_at=row["created_at"],
                revoked_at=row["revoked_at"],
                expires_at=row["expires_at"],
            )
            for row in rows
        ]

    async def rotate(self, key_id: str, overlap: timedelta, expires_at: datetime | None = None) -> str | None:
        """Create a key that permits what another one does, which expires after the overlap; see the port."""
        new_id, secret = _new_key()
        values = {"new_id": new_id, "hash": hash_secret(secret), "id": key_id, "overlap": overlap}
        async with connect(self._pool) as connection, connection.transaction():
            copied = await connection.execute(_COPY.encode(), {**values, "expires_at": expires_at})
            if await copied.fetchone() is None:
                return None
            await connection.execute(_EXPIRE.encode(), values)
        return _join(new_id, secret)

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key. Return False if no working key has this id."""
        async with connect(self._pool) as connection:
            row = await (await connection.execute(_REVOKE.encode(), {"id": key_id})).fetchone()
        return row is not None


def _find_principal(
    key: str, by_id: Mapping[str, dict[str, Any]], by_token: Mapping[bytes, dict[str, Any]]
) -> Principal | None:
    if TOKEN_FORM.fullmatch(key):
        row = by_token.get(hash_secret(key))
        return _principal(row) if row else None
    if not KEY_FORM.fullmatch(key):
        return None
    _, key_id, secret = key.split("_", 2)
    row = by_id.get(key_id)
    # Compare in every case and in constant time, so that the response time reveals nothing.
    is_equal = hmac.compare_digest(hash_secret(secret), bytes(row["hash"]) if row else _NO_HASH)
    return _principal(row) if row is not None and is_equal else None


def _principal(row: dict[str, Any]) -> Principal:
    paths = row["paths"]
    return Principal(
        id=row["id"],
        tenant=row["tenant"],
        reports=_set_or_none(row["reports"]),
        lane=Lane(row["lane"]),
        requests_per_minute=row["requests_per_minute"],
        may_refresh=row["may_refresh"],
        is_operator=row["is_operator"],
        queries=_set_or_none(row["queries"]),
        paths=None if paths is None else tuple(PathPattern.parse(each) for each in paths),
        divisions=_set_or_none(row["divisions"]),
    )


def _sorted_or_none(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _tuple_or_none(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _set_or_none(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _new_key() -> tuple[str, str]:
    """Return a new id and a new secret."""
    return secrets.token_hex(6), secrets.token_urlsafe(32)


def _join(key_id: str, secret: str) -> str:
    return f"{KEY_PREFIX}_{key_id}_{secret}"

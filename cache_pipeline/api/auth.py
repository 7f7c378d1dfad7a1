"""Authentication: finds the caller of a key, and remembers it for a few seconds."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from itertools import chain

from starlette.datastructures import Headers

from cache_pipeline.storage.ports.api_keys import ApiKeyStore, Principal, has_credential_form, hash_secret

#: How long a key is cached, and so how long a revoked key may still work.
_CACHE_SECONDS = 5.0
_MAX_CACHED_KEYS, _MAX_CACHED_REFUSALS = 10_000, 256
_MAX_KEYS_AT_ONCE = 500


def read_key(headers: Headers) -> str | None:
    """Return the credential of a request, or None if it sent none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


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
        self._waiting: dict[str, list[asyncio.Future[Principal | None]]] = {}
        self._looking_up: asyncio.Task[None] | None = None

    async def find(self, key: str) -> Principal | None:
        """Return the principal of a key or access token, or None if it is unknown, revoked or expired; all outcomes are cached."""
        if not has_credential_form(key):
            return None
        digest, now = hash_secret(key), self._now()
        principal, valid_until = self._valid.get(digest, (None, 0.0))
        if valid_until > now or self._refused.get(digest, 0.0) > now:
            return principal if valid_until > now else None
        principal = await self._look_up(key)
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

    def known_digest(self, key: str | None) -> bytes | None:
        """Return the digest of a key that was found before and, as far as is known, is still valid; None for any other."""
        if key is None or not has_credential_form(key):
            return None
        digest = hash_secret(key)
        return digest if digest in self._valid else None

    async def _look_up(self, key: str) -> Principal | None:
        """Look a key up together with all others that arrive while the store is busy, so that unknown ones cost it one query at a time."""
        found: asyncio.Future[Principal | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(found)
        if self._looking_up is None:
            self._looking_up = asyncio.create_task(self._look_up_waiting())
        return await found

    async def _look_up_waiting(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:_MAX_KEYS_AT_ONCE]
                callers = [self._waiting.pop(key) for key in keys]
                try:
                    principals = await self._store.find(keys)
                except Exception as error:  # noqa: BLE001 - each caller raises it
                    for caller in chain.from_iterable(callers):
                        if not caller.done():
                            caller.set_exception(error)
                    continue
                for principal, waiting in zip(principals, callers, strict=True):
                    for caller in waiting:
                        if not caller.done():
                            caller.set_result(principal)
        finally:
            self._looking_up = None

    async def issue_token(self, principal: Principal, lifetime: timedelta) -> str:
        """Return a new access token that permits what the principal's key permits."""
        return await self._store.issue_token(principal.id, lifetime)

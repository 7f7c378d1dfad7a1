"""The keys of the HTTP API: their form, what each permits, and where they are stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cache_pipeline.path_patterns import PathPattern
from cache_pipeline.query.lane import Lane, Priority

KEY_PREFIX = "cp"

#: Six random bytes in hexadecimal, and 32 in URL-safe base 64.
KEY_FORM = re.compile(rf"{KEY_PREFIX}_[0-9a-f]{{12}}_[A-Za-z0-9_-]{{43}}")

TOKEN_PREFIX = "cpt"  # noqa: S105 - no secret

#: An access token: a key was exchanged for it, and it permits what that key permits, until it expires or the key is revoked.
TOKEN_FORM = re.compile(rf"{TOKEN_PREFIX}_[A-Za-z0-9_-]{{43}}")


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
        is_operator: Whether it may see the state of the whole deployment.
        queries: The query types that it may ask for, or None for all.
        paths: The methods and paths that it may use, or None for all.
        divisions: The ids of the vendor's divisions whose figures it sees, or None for all.
    """

    id: str
    tenant: str
    reports: frozenset[str] | None
    lane: Lane
    requests_per_minute: int | None = None
    may_refresh: bool = False
    is_operator: bool = False
    queries: frozenset[str] | None = None
    paths: tuple[PathPattern, ...] | None = None
    divisions: frozenset[str] | None = None

    @property
    def priority(self) -> Priority:
        """The priority of what the vendor is asked for it."""
        return Priority(self.lane, frozenset({self.id}))

    def may_query(self, report: str) -> bool:
        """Return whether the caller's key is for a report of this name."""
        return self.reports is None or report in self.reports

    def may_ask(self, query_type: str) -> bool:
        """Return whether the caller's key is for a query type."""
        return self.queries is None or query_type in self.queries


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
    is_operator: bool
    queries: tuple[str, ...] | None
    paths: tuple[str, ...] | None
    divisions: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None

    def has_expired(self, now: datetime) -> bool:
        """Return whether the key no longer works because of its age."""
        return self.expires_at is not None and self.expires_at <= now


def has_credential_form(text: str) -> bool:
    """Return whether a text could be a key or an access token."""
    return (KEY_FORM.fullmatch(text) or TOKEN_FORM.fullmatch(text)) is not None


def hash_secret(secret: str) -> bytes:
    """Return the digest of a secret, by which it is stored and compared."""
    # The secret is 256 random bits, so a slow hash, which hinders guessing, is not needed.
    return hashlib.sha256(secret.encode()).digest()


class ApiKeyStore(Protocol):
    """The keys of the HTTP API. Only a hash of a key is stored, so a key cannot be read back."""

    async def create(self, name: str, principal: Principal, expires_at: datetime | None = None) -> str:
        """Create a key for a principal and return it. The principal's id is replaced, and the key cannot be shown again."""
        ...

    async def issue_token(self, key_id: str, lifetime: timedelta) -> str:
        """Create an access token of a key and return it; it cannot be shown again."""
        ...

    async def find(self, keys: Sequence[str]) -> list[Principal | None]:
        """Return the principal of each key or access token, or None if it is unknown, revoked or expired."""
        ...

    async def all(self) -> list[ApiKeyInfo]:
        """Return every key, including revoked and expired ones, in order of creation."""
        ...

    async def rotate(self, key_id: str, overlap: timedelta, expires_at: datetime | None = None) -> str | None:
        """Create a key that permits what another one does, which expires soon.

        Args:
            key_id: The id of the key to replace.
            overlap: How long both work, unless the old one expires sooner.
            expires_at: When the new key expires; by default it works for as long as the old one was to, if that has an end.

        Returns:
            The new key, or None if no working key has this id.
        """
        ...

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key. Return False if no working key has this id."""
        ...

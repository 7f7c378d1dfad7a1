"""The interface for storing one client's access token between logins, and a store for processes that share none."""

from dataclasses import dataclass, field
from typing import Protocol

RENEWAL_AGE = 0.8
"""Share of its lifetime after which a token is renewed (G23)."""

LOGIN_LEASE_SECONDS = 10.0
"""One process logs in at a time; a process that dies, or takes longer, delays the others by no more than this."""


@dataclass(frozen=True)
class StoredToken:
    """A token that is still valid.

    Attributes:
        value: The token itself.
        lifetime_seconds: Its total lifetime.
        remaining_seconds: How long it is still valid.
        token_id: Identifies the token and reveals nothing about it; empty for a token that is not shared.
    """

    value: str = field(repr=False)
    lifetime_seconds: float
    remaining_seconds: float
    token_id: str = ""


@dataclass(frozen=True)
class LoginClaim:
    """The store's answer to a request for a token younger than 80 % of its lifetime.

    Attributes:
        token: The valid token, if there is one, whatever its age.
        may_log_in: No other process is renewing the token: the caller must log in and report the result.
        claimed_at: When the claim was made, by the store's own clock in microseconds; None if the store has no such clock.
        refusal: Why another process was recently refused, and the seconds until it is worth trying again.
    """

    token: StoredToken | None = None
    may_log_in: bool = False
    claimed_at: int | None = None
    refusal: tuple[str, float] | None = None


class TokenStore(Protocol):
    """Stores one OAuth client's token. It never raises; if it cannot store something, the only cost is another login."""

    async def claim(self, exclude_id: str) -> LoginClaim:
        """Return the valid token; if it is old or has the id `exclude_id`, also permission to log in."""
        ...

    async def store(self, claim: LoginClaim, value: str, lifetime_seconds: float) -> str:
        """Store the result of a login for all processes that need it, and return its token id."""
        ...

    async def record_refusal(self, claim: LoginClaim, reason: str, seconds: float) -> None:
        """Record that the login refused the client, which is not tried for so many seconds."""
        ...

    async def release(self, claim: LoginClaim, *, retry_after_seconds: float) -> None:
        """End a claim without a result; the next process may log in after so many seconds."""
        ...

    async def delete(self, token_id: str) -> None:
        """Delete the token with this id, and no other."""
        ...


class LocalTokens:
    """Stores nothing: every process logs in for itself."""

    async def claim(self, exclude_id: str) -> LoginClaim:
        """Return permission to log in."""
        return LoginClaim(may_log_in=True)

    async def store(self, claim: LoginClaim, value: str, lifetime_seconds: float) -> str:
        """Store nothing, and return an empty id."""
        return ""

    async def record_refusal(self, claim: LoginClaim, reason: str, seconds: float) -> None:
        """Do nothing: no other process is to know."""

    async def release(self, claim: LoginClaim, *, retry_after_seconds: float) -> None:
        """Do nothing: no other process waits."""

    async def delete(self, token_id: str) -> None:
        """Do nothing: no token is stored."""

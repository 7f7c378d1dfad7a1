"""Where one client's token is kept between logins: the interface, and a store for a process that shares with nobody."""

from dataclasses import dataclass, field
from typing import Protocol

RENEW_AT = 0.8
"""A token is renewed once it is older than this share of its life (G23)."""

LEASE_SECONDS = 10.0
"""One process logs in at a time; one that dies, or takes longer, holds up the others for no more than this."""


@dataclass(frozen=True)
class StoredToken:
    """A living token.

    Attributes:
        value: The token itself.
        life: Seconds it lives in all.
        left: Seconds it lives still.
        mark: Tells it from every other token, and gives nothing away; empty for one that is not shared.
    """

    value: str = field(repr=False)
    life: float
    left: float
    mark: str = ""


@dataclass(frozen=True)
class LoginClaim:
    """What the store says to one who wants a token younger than 80 % of its life.

    Attributes:
        token: The living one, if there is any, however old.
        may_log_in: Nobody else is renewing it: the one who asked shall log in, and tell what came of it.
        since: When that was, by the store's own clock in microseconds; None where there is no such clock.
        refused: Why another process was refused a moment ago, and the seconds until it is worth trying again.
    """

    token: StoredToken | None = None
    may_log_in: bool = False
    since: int | None = None
    refused: tuple[str, float] | None = None


class TokenStore(Protocol):
    """Keeps one OAuth client's token. What it cannot keep costs another login, and nothing else: it never raises."""

    async def claim(self, without: str) -> LoginClaim:
        """Gives the living token or, if that is old or bears the mark `without`, leave to log in."""
        ...

    async def keep(self, claim: LoginClaim, value: str, life: float) -> str:
        """Keeps what a login gave for whoever else needs it, and gives its mark."""
        ...

    async def refuse(self, claim: LoginClaim, reason: str, seconds: float) -> None:
        """Says that the login refused the client, which is left out for so long."""
        ...

    async def give_back(self, claim: LoginClaim, *, again_in: float) -> None:
        """Says that nothing came of the claim; the next one may log in after so many seconds."""
        ...

    async def drop(self, mark: str) -> None:
        """Forgets the token of this mark, and no other."""
        ...


class LocalTokens:
    """Keeps nothing: every process logs in for itself."""

    async def claim(self, without: str) -> LoginClaim:
        """Gives leave to log in."""
        return LoginClaim(may_log_in=True)

    async def keep(self, claim: LoginClaim, value: str, life: float) -> str:
        """Keeps nothing."""
        return ""

    async def refuse(self, claim: LoginClaim, reason: str, seconds: float) -> None:
        """Tells nobody."""

    async def give_back(self, claim: LoginClaim, *, again_in: float) -> None:
        """Tells nobody."""

    async def drop(self, mark: str) -> None:
        """Has nothing to forget."""

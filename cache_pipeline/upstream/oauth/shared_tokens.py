"""One token for all processes and machines, sealed in Redis."""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio

from cache_pipeline.upstream.config import OAuthClient
from cache_pipeline.upstream.oauth.sealing import Seal
from cache_pipeline.upstream.oauth.token_store import LEASE_SECONDS, RENEW_AT, LoginClaim, StoredToken
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import AWAY, read_scripts, text_of, unbroken

_log = logging.getLogger(__name__)

# An absent Redis is left alone for so long; meanwhile each process logs in for itself.
_AWAY_SECONDS = 1.0
# Another's refusal spares a login for so long, and no longer: somebody may have mended the client by now.
_REFUSED_FOR_ALL_SECONDS = 60.0


class SharedTokens:
    """The token of one OAuth client, in Redis for as long as it lives.

    It lies there sealed with a key derived from the client's own secret (`Seal`), bound to platform, client and login. Its
    age is measured by Redis's clock alone, from when the one that logged in was given leave to: clocks of the machines do
    not matter. Who is logging in holds a lease, so that others wait or go on with the living token; the lease of one that
    died ends by itself, and two logins at once would do no harm.

    Redis away: every claim is leave to log in, so each process has a token of its own.

    Args:
        redis: An asyncio client; how its answers are decoded does not matter.
        platform: Name of the vendor, for the keys.
        client: Whose token.
        login_url: A token of another login is not this one's.
        timeout: Redis that does not answer in so many seconds is away.
        clock: Seconds that only grow; says when an absent Redis is tried again.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        platform: str,
        client: OAuthClient,
        login_url: str,
        *,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        keys = UpstreamKeys(platform)
        self._keys = [keys.token(client.client_id), keys.login(client.client_id), keys.refused(client.client_id)]
        self._seal = Seal(client.client_secret, (platform, client.client_id, login_url))
        self._holder = uuid.uuid4().hex
        self._timeout = timeout
        self._clock = clock
        self._away_until = 0.0
        self._scripts = read_scripts(redis, "cache_pipeline.upstream.oauth")

    async def claim(self, without: str) -> LoginClaim:
        """Gives the living token or, if that is old, unreadable or bears the mark `without`, leave to log in."""
        for _ in range(2):
            arguments = [self._holder, _millis(LEASE_SECONDS), without, 1 - RENEW_AT]
            answer = await self._run("claim", arguments)
            if answer is None:
                return LoginClaim(may_log_in=True)
            verdict, sealed, life, left, since, refusal, refused_at = (text_of(each) for each in answer)
            token = self._opened(sealed, life, int(left)) if sealed and sealed != without else None
            if token is None and verdict == "young":
                # Sealed with another secret: as if it were not there.
                without = sealed
                continue
            refused = self._refusal(refusal, (int(since) - int(refused_at or 0)) / 1e6)
            return LoginClaim(token, verdict == "log in", int(since), refused)
        return LoginClaim(may_log_in=True)

    async def keep(self, claim: LoginClaim, value: str, life: float) -> str:
        """Keeps a new token until it dies, frees the lease and forgets a refusal."""
        if claim.since is None:
            return ""
        sealed = self._seal.seal(value, str(_millis(life)))
        await self._run("keep", [self._holder, sealed, _millis(life), claim.since])
        return sealed

    async def refuse(self, claim: LoginClaim, reason: str, seconds: float) -> None:
        """Says that the login refused the client, for everybody to see until it is tried again."""
        await self._run("refuse", [self._holder, self._seal.seal(reason), _millis(seconds)])

    async def give_back(self, claim: LoginClaim, *, again_in: float) -> None:
        """Frees the lease after so many seconds."""
        if claim.may_log_in:
            await self._run("give_back", [self._holder, _millis(again_in)])

    async def drop(self, mark: str) -> None:
        """Forgets this very token, so that it is renewed for all."""
        if mark:
            await self._run("drop", [mark])

    def _opened(self, sealed: str, life: str, left: int) -> StoredToken | None:
        value = self._seal.open(sealed, life)
        return None if value is None or left <= 0 else StoredToken(value, int(life) / 1e3, left / 1e3, sealed)

    def _refusal(self, sealed: str, age: float) -> tuple[str, float] | None:
        reason = self._seal.open(sealed) if sealed else None
        still = _REFUSED_FOR_ALL_SECONDS - age
        if reason is None or still <= 0:
            return None
        return f"{reason} (told to another process {age:.0f} s ago)", still

    async def _run(self, script: str, arguments: Sequence[str | int | float]) -> Any | None:
        if self._clock() < self._away_until:
            return None
        try:
            return await unbroken(self._scripts[script](keys=self._keys, args=arguments), self._timeout)
        except AWAY as error:
            # The quota says it loudly; here it only means a login more.
            _log.debug("access tokens are not shared for now: %s", error or type(error).__name__)
            self._away_until = self._clock() + _AWAY_SECONDS
            return None


def _millis(seconds: float) -> int:
    return round(seconds * 1000)

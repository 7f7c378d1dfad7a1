"""Shares one access token among all processes and machines, encrypted in Redis."""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio

from cache_pipeline.redis_errors import REDIS_ERRORS
from cache_pipeline.upstream.config import OAuthClient
from cache_pipeline.upstream.oauth.sealing import Seal
from cache_pipeline.upstream.oauth.token_store import LOGIN_LEASE_SECONDS, RENEWAL_AGE, LoginClaim, StoredToken
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import decode_text, load_scripts, run_command

logger = logging.getLogger(__name__)

# An unavailable Redis is not tried again for this long; meanwhile each process logs in for itself.
_RETRY_REDIS_SECONDS = 1.0
# The refusal of another process saves a login for this long only, because an operator may have repaired the client by then.
_SHARED_REFUSAL_SECONDS = 60.0


class SharedTokens:
    """The token of one OAuth client, in Redis for as long as it is valid.

    The token is sealed with a key derived from the client's own secret (`Seal`), bound to the vendor, client and login. Its age is
    measured by Redis's clock alone, from the moment the process that logged in got permission, so the clocks of the machines do
    not matter. The process that logs in holds a lease; meanwhile others wait or continue with the valid token. The lease of a
    dead process expires, and two logins at once do no harm.

    While Redis is unavailable every claim is permission to log in, so each process has a token of its own.

    Args:
        redis: An asyncio client; it may decode answers or not.
        keys: The names of keys of the client's account.
        client: The OAuth client that the token belongs to.
        login_url: Address of the login; a token of another login does not open here.
        timeout: Seconds without an answer after which Redis counts as unavailable.
        clock: Monotonic seconds; decides when an unavailable Redis is tried again.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        keys: UpstreamKeys,
        client: OAuthClient,
        login_url: str,
        *,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = [keys.token(client.client_id), keys.login(client.client_id), keys.refused(client.client_id)]
        self._seal = Seal(client.client_secret, (keys.scope, client.client_id, login_url))
        self._caller_id = uuid.uuid4().hex
        self._timeout = timeout
        self._clock = clock
        self._unavailable_until = 0.0
        self._scripts = load_scripts(redis, "cache_pipeline.upstream.oauth")

    async def claim(self, exclude_id: str) -> LoginClaim:
        """Return the valid token; if it is old, unreadable or has the id `exclude_id`, also permission to log in."""
        for _ in range(2):
            arguments = [self._caller_id, _millis(LOGIN_LEASE_SECONDS), exclude_id, 1 - RENEWAL_AGE]
            answer = await self._run("claim", arguments)
            if answer is None:
                return LoginClaim(may_log_in=True)
            verdict, sealed, lifetime_ms, ttl_ms, now, refusal, refused_at = (decode_text(each) for each in answer)
            token = self._open_token(sealed, lifetime_ms, int(ttl_ms)) if sealed and sealed != exclude_id else None
            if token is None and verdict == "fresh":
                # Sealed with another secret: treat it as absent.
                exclude_id = sealed
                continue
            recent_refusal = self._open_refusal(refusal, (int(now) - int(refused_at or 0)) / 1e6)
            return LoginClaim(token, verdict == "log_in", int(now), recent_refusal)
        return LoginClaim(may_log_in=True)

    async def store(self, claim: LoginClaim, value: str, lifetime_seconds: float) -> str:
        """Store a new token until it expires, end the lease, delete a refusal, and return the token id."""
        if claim.claimed_at is None:
            return ""
        sealed = self._seal.seal(value, str(_millis(lifetime_seconds)))
        await self._run("store", [self._caller_id, sealed, _millis(lifetime_seconds), claim.claimed_at])
        return sealed

    async def record_refusal(self, claim: LoginClaim, reason: str, seconds: float) -> None:
        """Record for all processes that the login refused the client, until it is tried again."""
        await self._run("record_refusal", [self._caller_id, self._seal.seal(reason), _millis(seconds)])

    async def release(self, claim: LoginClaim, *, retry_after_seconds: float) -> None:
        """End the lease after so many seconds."""
        if claim.may_log_in:
            await self._run("release", [self._caller_id, _millis(retry_after_seconds)])

    async def delete(self, token_id: str) -> None:
        """Delete exactly this token, so that it is renewed for all processes."""
        if token_id:
            await self._run("delete", [token_id])

    def _open_token(self, sealed: str, lifetime_ms: str, ttl_ms: int) -> StoredToken | None:
        value = self._seal.open(sealed, lifetime_ms)
        if value is None or ttl_ms <= 0:
            return None
        return StoredToken(value, int(lifetime_ms) / 1e3, ttl_ms / 1e3, sealed)

    def _open_refusal(self, sealed: str, age_seconds: float) -> tuple[str, float] | None:
        reason = self._seal.open(sealed) if sealed else None
        remaining_seconds = _SHARED_REFUSAL_SECONDS - age_seconds
        if reason is None or remaining_seconds <= 0:
            return None
        return f"{reason} (reported to another process {age_seconds:.0f} s ago)", remaining_seconds

    async def _run(self, script: str, arguments: Sequence[str | int | float]) -> Any | None:
        if self._clock() < self._unavailable_until:
            return None
        try:
            return await run_command(self._scripts[script](keys=self._keys, args=arguments), self._timeout)
        except REDIS_ERRORS as error:
            # The quota warns of the outage; here it only costs an additional login.
            logger.debug("access tokens are not shared for now: %s", error or type(error).__name__)
            self._unavailable_until = self._clock() + _RETRY_REDIS_SECONDS
            return None


def _millis(seconds: float) -> int:
    return round(seconds * 1000)

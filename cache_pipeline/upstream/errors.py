"""What can go wrong upstream: one tree, one clear line each, never a secret."""

from collections.abc import Sequence
from typing import Any


def one_line(text: str, limit: int = 300) -> str:
    """Folds a vendor's words into one line of at most `limit` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


def _revive(kind: type["UpstreamError"], args: tuple[Any, ...], state: dict[str, Any]) -> "UpstreamError":
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UpstreamError(Exception):
    """Anything the vendor, its login or the shared quota did not let us do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by state: constructors take keywords, which the default cannot replay in another process."""
        return _revive, (type(self), self.args, self.__dict__)


class UpstreamUnreachable(UpstreamError):
    """No answer after bounded retries: cannot connect, timed out, or the connection broke."""

    def __init__(self, *, host: str, reason: str, attempts: int = 1) -> None:
        self.host, self.reason, self.attempts = host, one_line(reason), attempts
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(
            f"cannot reach {host} after {tries}: {self.reason}; "
            f"check that the address is right and that the network (DNS, proxy, firewall) lets this machine out to it"
        )


class LoginRefused(UpstreamError):
    """The login said no to one OAuth client, or to every client of the pool."""

    def __init__(self, *, client_ids: Sequence[str], login_url: str, reason: str) -> None:
        self.client_ids, self.login_url, self.reason = tuple(client_ids), login_url, one_line(reason)
        names = ", ".join(self.client_ids)
        which = f"OAuth client {names}" if len(self.client_ids) == 1 else f"every OAuth client ({names})"
        super().__init__(
            f"login refused for {which} at {login_url}: {self.reason}; "
            "check the secret, and that it is enabled for this login: an OAuth client of Genesys with the client-credentials grant, "
            "an access key of CXone"
        )


class DiscoveryFailed(UpstreamError):
    """Where the vendor's API is could not be found out."""

    def __init__(self, *, issuer: str, reason: str) -> None:
        self.issuer, self.reason = issuer, one_line(reason)
        super().__init__(
            f"{issuer} did not say where the API is: {self.reason}; check issuer and tenant_id, or set base_url"
        )


class ClientUnknown(UpstreamError):
    """A request is pinned to an OAuth client that the settings no longer name."""

    def __init__(self, *, client_id: str, platform: str, known: Sequence[str]) -> None:
        self.client_id, self.platform, self.known = client_id, platform, tuple(known)
        super().__init__(
            f"OAuth client {client_id} is not configured for {platform} (configured: {', '.join(known)}); "
            f"put it back into the settings or submit the query again"
        )


class QuotaUnavailable(UpstreamError):
    """Redis is away, so the shared quota cannot be asked, and this lane does not run on a local share."""

    def __init__(self, *, platform: str, lane: str, reason: str) -> None:
        self.platform, self.lane, self.reason = platform, lane, one_line(reason)
        super().__init__(
            f"the shared quota of {platform} cannot be asked ({self.reason}) and lane {lane} stops without it; "
            f"bring Redis back, then run it again"
        )


class UpstreamRefused(UpstreamError):
    """A 4xx: the vendor will not do this, and would not if asked again."""

    def __init__(
        self,
        *,
        status: int,
        method: str,
        path: str,
        code: str | None = None,
        message: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        self.status, self.method, self.path = status, method, path
        self.code, self.correlation_id = code, correlation_id
        self.message = one_line(message) if message else None
        told = self.message or "no reason given"
        tail = "".join((f" [{code}]" if code else "", f" (correlation id {correlation_id})" if correlation_id else ""))
        super().__init__(f"{method} {path} was refused with {status}: {told}{tail}")


class UpstreamFaulted(UpstreamError):
    """A 5xx that stayed after bounded retries, or one that may not be retried."""

    def __init__(
        self, *, status: int, method: str, path: str, attempts: int, message: str | None, correlation_id: str | None
    ) -> None:
        self.status, self.method, self.path, self.attempts = status, method, path, attempts
        self.message, self.correlation_id = (one_line(message) if message else None), correlation_id
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        told = f": {self.message}" if self.message else ""
        tail = f" (correlation id {correlation_id})" if correlation_id else ""
        super().__init__(f"{method} {path} failed on the vendor's side with {status} after {tries}{told}{tail}")


class UpstreamJobFailed(UpstreamError):
    """The vendor took the query and ended it without a result."""

    _became = "failed"

    def __init__(self, job_id: str, message: str) -> None:
        self.job_id, self.message = job_id, one_line(message)
        super().__init__(f"upstream job {job_id} {self._became}: {self.message}")


class UpstreamJobGone(UpstreamJobFailed):
    """The vendor no longer knows the job, or no longer has its result: only submitting anew can help."""

    _became = "is gone"


class UpstreamJobOverdue(UpstreamError):
    """Polling stopped at its deadline, and the job is given up; the vendor may go on with it all the same."""

    def __init__(self, *, waited_seconds: float, polls: int) -> None:
        self.waited_seconds, self.polls = waited_seconds, polls
        super().__init__(
            f"the upstream job was not done after {waited_seconds:.0f} s and {polls} polls; "
            f"it is given up and asked for anew; a vendor that takes so long is given more by job_deadline_seconds"
        )


class AmbiguousSubmit(UpstreamError):
    """A submit was sent and no clear answer came: the vendor may have taken it. It was not repeated."""

    def __init__(self, *, method: str, path: str, reason: str) -> None:
        self.method, self.path, self.reason = method, path, one_line(reason)
        super().__init__(
            f"{method} {path} was sent once and may have been taken: {self.reason}; "
            f"look for the job at the vendor before submitting again"
        )

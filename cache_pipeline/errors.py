"""Every error that crosses a package boundary, in one tree.

CachePipelineError
├── InvalidInput                  the caller must change something
│   ├── QueryError                a query that cannot be answered
│   │   ├── InvalidInterval
│   │   ├── InvalidQuery
│   │   ├── UnknownReport
│   │   ├── AnswerTooLarge
│   │   ├── TooManyAdHocSeries
│   │   └── DeclarationError      (query/declarations.py)
│   ├── SettingsError
│   │   └── PlatformNotConfigured
│   ├── DeclarationConflict
│   └── CommandError
├── SchemaMismatch                an answer that is not what the declaration says
│   └── MalformedBody             (vendors/json_body.py)
├── IncompleteAnswer              (fetch/chunk_states.py)
├── UpstreamError                 the vendor, its login or the shared quota
│   ├── UpstreamUnreachable
│   ├── UpstreamRefused           4xx
│   │   └── PermissionMissing     (in its vendor's package)
│   ├── UpstreamFaulted           5xx, 408 and 425
│   ├── LoginRefused
│   ├── DiscoveryFailed
│   ├── ClientUnknown
│   ├── QuotaUnavailable
│   ├── UpstreamJobFailed
│   │   └── UpstreamJobGone
│   │       ├── UpstreamJobCancelled
│   │       └── UpstreamJobUnreadable
│   ├── UpstreamJobOverdue
│   ├── PushLost                  the connection on which a vendor reports changes
│   └── AmbiguousSubmit
├── StoreUnavailable              a server or disk that this deployment needs
│   ├── HistoryUnavailable        PostgreSQL
│   │   ├── HistoryRefused
│   │   └── ReplicaUnavailable    its read replica failed during a read
│   ├── UnknownSchemaVersion
│   ├── RedisUnavailable
│   ├── QueueUnavailable
│   ├── EdgeStoreError
│   └── DiskUnwritable
├── StagingReplaced               a staged partition changed while it was read
├── SeriesMismatch                rows that were fetched under another declaration
├── NewerDataPresent              (storage/ports/history.py)
├── QueryInFlight                 another process works on the same query (storage/ports/ledger.py)
│   └── AlreadyStored             (fetch/upstream_jobs.py)
└── LeaseLost                     (storage/ports/ledger.py)

The class attributes say how each entry point reports an error. The command line, the HTTP API, its workers and Dagster read
them; nothing keeps a list of classes. Errors that never leave one package are defined there and derive from this root too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

#: How vendors word a refusal for size: what is wrong, and of what.
_TOO_LARGE = re.compile(
    r"\b(?:small|short|reduc|narrow|split|lessen|decreas|too (?:large|long|wide|big|many|much)|exceed|larger|longer|more than"
    r"|greater than|max|limit|at most|no more|up to)"
)
_SIZES = re.compile(
    r"\b(?:interval|range|period|span|duration|time ?frame|window|days?|hours?|weeks?|months?|results?|rows?|records?|response"
    r"|data|buckets?|size)\b"
)


def one_line(text: str, limit: int = 300) -> str:
    """Fold text from outside into one line of at most `limit` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; drivers append many lines of detail."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _revive(kind: type[CachePipelineError], args: tuple[Any, ...], state: dict[str, Any]) -> CachePipelineError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class CachePipelineError(Exception):
    """The root of every error of this package.

    Args:
        message: What went wrong, in one sentence without a period.
        remedy: What the reader can do about it; appended to the text after a semicolon.

    Attributes:
        retryable: Whether the same request may succeed later without any change to it.
        http_status: The status with which the HTTP API answers.
        problem_type: The last part of the RFC 9457 problem type, stable for programs.
    """

    retryable: bool = False
    http_status: int = 500
    problem_type: str = "internal"

    def __init__(self, message: str = "", *, remedy: str = "") -> None:
        self.message, self.remedy = message, remedy
        super().__init__(f"{message}; {remedy}" if remedy else message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state: constructors take keywords, which the default cannot replay in another process."""
        return _revive, (type(self), self.args, self.__dict__)

    @property
    def lines(self) -> tuple[str, ...]:
        """The text for the command line, one line for each thing that is wrong."""
        return (" ".join(str(self).split()),)

    @property
    def public_text(self) -> str:
        """The text for a caller of the HTTP API, who must not learn about servers behind it."""
        return str(self)

    @property
    def field_errors(self) -> tuple[tuple[str, str], ...]:
        """The fields that are wrong, each with its problem; empty if the error is not about fields."""
        return ()


class InvalidInput(CachePipelineError):
    """Input that the caller must change."""

    http_status = 422
    problem_type = "invalid-input"


class QueryError(InvalidInput, ValueError):
    """A query that cannot be answered.

    It is a ValueError, so that pydantic reports it as a mistake of the field whose validator raised it.
    """

    problem_type = "invalid-query"


class InvalidInterval(QueryError):
    """An interval that is reversed, empty, open, without a UTC offset, or not aligned with its report's buckets."""


class AnswerTooLarge(QueryError):
    """A query whose answer has more rows or bytes than one answer may have."""

    problem_type = "answer-too-large"


class TooManyAdHocSeries(QueryError):
    """A query that no declared report holds, where no more of such queries are taken."""

    problem_type = "too-many-ad-hoc-series"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"no declared report holds this query, and there are {most} other such queries already",
            remedy="declare a report for it, or raise CACHE_PIPELINE_API__AD_HOC_SERIES",
        )


class UnknownReport(QueryError):
    """A report name that no declaration has."""

    http_status = 404
    problem_type = "unknown-report"


class InvalidQuery(QueryError):
    """A field of a query that its report cannot answer.

    Attributes:
        field: The field, such as ``group_by``.
        problem: What is wrong with it, and what to write instead.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")

    @property
    def field_errors(self) -> tuple[tuple[str, str], ...]:
        """The one field that is wrong."""
        return ((self.field, self.problem),)


class SettingsError(InvalidInput, ValueError):
    """A setting that cannot be used. The text names the environment variable and never its value."""

    http_status = 503
    problem_type = "not-configured"


class PlatformNotConfigured(SettingsError):
    """The settings hold no account for a report's platform."""


class DeclarationConflict(InvalidInput):
    """A declaration that wants another type for a column that its table already has."""

    http_status = 503
    problem_type = "declaration-conflict"


class CommandError(InvalidInput):
    """A command that cannot continue. The text is the line that the user reads."""


class SchemaMismatch(CachePipelineError, ValueError):
    """An answer that does not match the declared columns. Nothing of it is stored (G12)."""

    http_status = 502
    problem_type = "unexpected-answer"


class UpstreamError(CachePipelineError):
    """Any failure of the vendor, its login or the shared quota."""

    http_status = 502
    problem_type = "vendor"

    @property
    def is_too_large(self) -> bool:
        """Whether the vendor says that a query for a shorter interval would succeed where this one failed."""
        return False

    @property
    def may_be_too_large(self) -> bool:
        """Whether a query for a shorter interval may succeed where this one failed, though the vendor does not say so."""
        return self.is_too_large


class UpstreamUnreachable(UpstreamError):
    """No answer after bounded retries: the connection was refused, timed out or broke."""

    retryable = True

    def __init__(self, *, host: str, reason: str, attempts: int = 1) -> None:
        self.host, self.reason, self.attempts = host, one_line(reason), attempts
        super().__init__(
            f"cannot reach {host} after {_count(attempts)}: {self.reason}",
            remedy="check that the address is right and that the network (DNS, proxy, firewall) lets this machine reach it",
        )


class LoginRefused(UpstreamError):
    """The login refused one OAuth client, or every client of the pool."""

    def __init__(self, *, client_ids: Sequence[str], login_url: str, reason: str) -> None:
        self.client_ids, self.login_url, self.reason = tuple(client_ids), login_url, one_line(reason)
        names = ", ".join(self.client_ids)
        which = f"OAuth client {names}" if len(self.client_ids) == 1 else f"every OAuth client ({names})"
        super().__init__(
            f"login refused for {which} at {login_url}: {self.reason}",
            remedy="check the secret, and that the client is enabled for this login",
        )


class DiscoveryFailed(UpstreamError):
    """The address of the vendor's API could not be discovered."""

    retryable = True

    def __init__(self, *, issuer: str, reason: str) -> None:
        self.issuer, self.reason = issuer, one_line(reason)
        super().__init__(
            f"{issuer} did not name the address of the API: {self.reason}",
            remedy="check issuer and tenant_id, or set base_url",
        )


class ClientUnknown(UpstreamError):
    """A request is pinned to an OAuth client that the settings no longer hold."""

    def __init__(self, *, client_id: str, account: str, known: Sequence[str]) -> None:
        self.client_id, self.account, self.known = client_id, account, tuple(known)
        super().__init__(
            f"OAuth client {client_id} is not configured for {account} (configured: {', '.join(known)})",
            remedy="put it back into the settings or submit the query again",
        )


class QuotaUnavailable(UpstreamError):
    """Redis is unavailable, so the shared quota is too, and this lane does not run on a local share."""

    retryable = True

    def __init__(self, *, account: str, lane: str, reason: str) -> None:
        self.account, self.lane, self.reason = account, lane, one_line(reason)
        super().__init__(
            f"the shared quota of {account} is unavailable ({self.reason}), and lane {lane} stops without it",
            remedy="restore Redis, then run it again",
        )


class UpstreamRefused(UpstreamError):
    """A 4xx answer: the vendor refuses the request and would refuse it again."""

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
        self.vendor_message = one_line(message) if message else None
        tail = "".join((f" [{code}]" if code else "", _id(correlation_id)))
        super().__init__(f"{method} {path} was refused with {status}: {self.vendor_message or 'no reason given'}{tail}")

    @property
    def is_too_large(self) -> bool:
        """Whether the vendor refuses the size: with 413, or with 400 and a message about the interval or the result."""
        if self.status != 400:
            return self.status == 413
        message = (self.vendor_message or "").lower()
        return bool(_TOO_LARGE.search(message) and _SIZES.search(message))


class UpstreamFaulted(UpstreamError):
    """A 5xx, 408 or 425 answer that remained after bounded retries, or one that may not be retried.

    Attributes:
        retry_after: The seconds that the vendor wants to be left alone; 0 if it does not say.
    """

    retryable = True

    def __init__(
        self,
        *,
        status: int,
        method: str,
        path: str,
        attempts: int,
        message: str | None,
        correlation_id: str | None,
        retry_after: float = 0.0,
    ) -> None:
        self.status, self.method, self.path, self.attempts = status, method, path, attempts
        self.retry_after = retry_after
        self.vendor_message, self.correlation_id = (one_line(message) if message else None), correlation_id
        reason = f": {self.vendor_message}" if self.vendor_message else ""
        super().__init__(
            f"{method} {path} failed at the vendor with {status} after {_count(attempts)}{reason}{_id(correlation_id)}"
        )

    @property
    def is_too_large(self) -> bool:
        """Whether the vendor ran out of time, which it may do again for the same interval."""
        return self.status == 504


class UpstreamJobFailed(UpstreamError):
    """The vendor accepted the query and ended it without a result."""

    retryable = True
    _outcome: ClassVar[str] = "failed"

    def __init__(self, job_id: str, message: str) -> None:
        self.job_id, self.vendor_message = job_id, one_line(message)
        super().__init__(f"upstream job {job_id} {self._outcome}: {self.vendor_message}")

    @property
    def may_be_too_large(self) -> bool:
        """Always: a vendor that runs out of time or memory often gives no reason."""
        return True


class UpstreamJobGone(UpstreamJobFailed):
    """The vendor no longer knows the job, or no longer has its result: only a new submit can help."""

    _outcome = "is gone"

    @property
    def may_be_too_large(self) -> bool:
        """Never: the job was accepted, and lost later."""
        return False


class UpstreamJobCancelled(UpstreamJobGone):
    """Another program or a person cancelled the job at the vendor: its size was not the reason, and a new submit may help."""

    _outcome = "was cancelled at the vendor"


class UpstreamJobUnreadable(UpstreamJobGone):
    """The vendor has the job, but the client that submitted it may not read it any more: it must be submitted again.

    Attributes:
        refusal: The error of the request that was refused.
    """

    _outcome = "cannot be read"

    def __init__(self, job_id: str, refusal: UpstreamError) -> None:
        self.refusal = refusal
        super().__init__(job_id, str(refusal))


class UpstreamJobOverdue(UpstreamError):
    """Polling stopped at its deadline, and the job is given up; the vendor may still be working on it."""

    retryable = True

    def __init__(self, *, waited_seconds: float, polls: int) -> None:
        self.waited_seconds, self.polls = waited_seconds, polls
        super().__init__(
            f"the upstream job was not done after {waited_seconds:.0f} s and {polls} polls, and is given up",
            remedy="it is submitted again on the next request; give a slow vendor more time with job_deadline_seconds",
        )


class PushLost(UpstreamError):
    """The connection on which a vendor reports changes is closed or silent, or what it sends is not as documented."""

    retryable = True
    http_status = 503
    problem_type = "push-lost"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the vendor's notifications are lost: {reason}")


class AmbiguousSubmit(UpstreamError):
    """A submit was sent and no clear answer came. The vendor may have accepted it, so it was not repeated."""

    retryable = True

    def __init__(self, *, method: str, path: str, reason: str) -> None:
        self.method, self.path, self.reason = method, path, one_line(reason)
        super().__init__(
            f"{method} {path} was sent once and may have been accepted: {self.reason}",
            remedy="look for the job at the vendor before submitting again",
        )


class StoreUnavailable(CachePipelineError):
    """A server or a disk that this deployment needs cannot be used at the moment."""

    retryable = True
    http_status = 503
    problem_type = "unavailable"


class HistoryUnavailable(StoreUnavailable):
    """PostgreSQL cannot be reached. The text says how to fix it, and never contains the password."""


class HistoryRefused(HistoryUnavailable):
    """PostgreSQL is running and refuses this URL's login: waiting does not help."""

    retryable = False


class ReplicaUnavailable(HistoryUnavailable):
    """The read replica of PostgreSQL failed during a read. The next read uses the primary."""


class UnknownSchemaVersion(StoreUnavailable):
    """The database was migrated by another version of this package, usually a newer one."""

    retryable = False

    def __init__(self, *, schema: str, revisions: Sequence[str]) -> None:
        self.schema, self.revisions = schema, tuple(revisions)
        super().__init__(
            f"schema {schema} is at migration {', '.join(revisions)}, which this version of cache_pipeline does not know",
            remedy="install the version of cache_pipeline that migrated the database, or a newer one",
        )


class RedisUnavailable(StoreUnavailable):
    """Redis cannot be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Redis cannot be used: {one_line(reason)}", remedy="check CACHE_PIPELINE_REDIS_URL")

    @property
    def public_text(self) -> str:
        """The text without the server's address."""
        return "Redis is unavailable at the moment"


class QueueUnavailable(StoreUnavailable):
    """The message broker cannot be used. The text says which one and how to fix it, and never contains a password."""


class EdgeStoreError(StoreUnavailable):
    """The store of published files cannot be used, or holds what it should not. The text says where, and how to fix it."""


class DiskUnwritable(StoreUnavailable):
    """A local folder cannot be written: the disk is full, read-only, or permissions are missing."""

    problem_type = "disk-unwritable"

    def __init__(self, folder: str, reason: str, *, setting: str) -> None:
        self.folder = folder
        super().__init__(
            f"the folder {folder} cannot be written ({one_line(reason)})",
            remedy=f"free space there, or set {setting} to another folder",
        )

    @property
    def public_text(self) -> str:
        """The text without the server's paths."""
        return "the server's disk cannot be written at the moment"


class StagingReplaced(CachePipelineError):
    """A staged partition was replaced or removed while its rows were being read."""

    retryable = True


class SeriesMismatch(CachePipelineError):
    """Rows were fetched with a declaration of another meaning than the one they are to be stored under."""

    def __init__(self, report: str, key: str) -> None:
        super().__init__(
            f"{report}: partition {key} was fetched with another declaration than the present one: materialise staged again"
        )


def _count(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _id(correlation_id: str | None) -> str:
    return f" (correlation id {correlation_id})" if correlation_id else ""

"""What a vendor's package exports so that its own API can be answered from stored rows, for clients that change only the host name."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.names import NamePage, NameSelection
from cache_pipeline.query.payload import QueryPayload
from cache_pipeline.query.report import Report
from cache_pipeline.storage.ports.jobs import JobState

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ServedRows:
    """The rows that answer a query.

    Attributes:
        rows: The rows, ordered by bucket and group.
        report: The report as it would be declared for exactly this query.
        complete_through: The instant before which every bucket is final.
    """

    rows: pa.Table
    report: Report
    complete_through: datetime


@dataclass(frozen=True)
class ServedQuery:
    """A query in the vendor's form, read.

    Attributes:
        payloads: The query, and after it others that answer it with something less; the first that a report can answer
            is taken.
        render: Returns the answer in the vendor's form, from the rows of that query.
        delivery: How such a query is fetched if no declared report holds it.
    """

    payloads: tuple[QueryPayload, ...]
    render: Callable[[ServedRows], Mapping[str, object]]
    delivery: Literal["sync", "async"] = "sync"


@dataclass(frozen=True)
class QueryPath:
    """A path to which the vendor's clients post queries, and that answers with the figures.

    Attributes:
        path: The path.
        read: Reads a body, and raises `InvalidQuery` if stored rows cannot answer it.
    """

    path: str
    read: Callable[[object], ServedQuery]


@dataclass(frozen=True)
class JobFacts:
    """A query that was submitted, and how far it is.

    Attributes:
        id: Its id.
        state: Its state.
        percent: 0 to 100.
        submitted_at: When it was submitted.
        finished_at: When it reached its final state.
        expires_at: When it is forgotten.
        error: Why it failed.
    """

    id: str
    state: JobState
    percent: float
    submitted_at: datetime
    finished_at: datetime | None
    expires_at: datetime
    error: str | None


@dataclass(frozen=True)
class JobPaths:
    """The paths of one kind of asynchronous queries; those of one query have ``{job_id}`` in them.

    Attributes:
        submit: Where queries are posted.
        status: Where the state of a query is read and, if `has_delete`, the query is deleted.
        results: Where the pages of its answer are read.
        read: Reads the body of a submit, and raises `InvalidQuery` if stored rows cannot answer it.
        accepted: Returns the status and body of the answer to a submit.
        describe: Returns the body of the answer to a request for the state.
        page: Returns a page of an answer, and whether it is the last. Its arguments are the query, the answer
            as `ServedQuery.render` returned it, the body of the submit, and the parameters in the URL.
        has_delete: Whether a query can be deleted.
    """

    submit: str
    status: str
    results: str
    read: Callable[[object], ServedQuery]
    accepted: Callable[[JobFacts], tuple[int, Mapping[str, object]]]
    describe: Callable[[JobFacts], Mapping[str, object]]
    page: Callable[
        [JobFacts, Mapping[str, Any], Mapping[str, Any], Mapping[str, str]], tuple[Mapping[str, object], bool]
    ]
    has_delete: bool


@dataclass(frozen=True)
class SharedQuestion:
    """The body of a submit, read.

    Attributes:
        body: The same question in the one form that all who ask it have in common.
        until: The end of its interval.
    """

    body: Mapping[str, object]
    until: datetime


@dataclass(frozen=True)
class SharedJobPaths:
    """The paths of asynchronous queries whose answers are the vendor's own; one job of the vendor's answers equal questions.

    Attributes:
        submit: Where questions are posted.
        status: Where the state of a job is read, and the job is deleted; it has ``{job_id}`` in it, as the next one has.
        results: Where the pages of its answer are read, by ``cursor`` and ``pageSize``.
        availability: Where the vendor says until when its data is complete.
        query_type: The type of query to which keys may be limited.
        max_page_size: The most entries of a page.
        read: Reads the body of a submit, and raises `QueryError` if it does not have the vendor's form.
        job_field: The field of the answer to a submit that has the job's id.
        available_field: The field of the availability that has the instant.
        is_open: Whether the job of a status has not ended.
        is_done: Whether it has an answer.
        describe: Returns the status as the caller gets it, who may read the job until some instant.
    """

    submit: str
    status: str
    results: str
    availability: str
    query_type: str
    max_page_size: int
    read: Callable[[object], SharedQuestion]
    job_field: str
    available_field: str
    is_open: Callable[[Mapping[str, Any]], bool]
    is_done: Callable[[Mapping[str, Any]], bool]
    describe: Callable[[Mapping[str, Any], datetime], Mapping[str, object]]


@dataclass(frozen=True)
class ObservationQuery:
    """A question about the present.

    Attributes:
        metrics: Its metrics.
        ids: The ids of what is observed; None if it does not name them.
        write: Returns the part of the vendor's own answer about all that is observed.
    """

    metrics: frozenset[str]
    ids: frozenset[str] | None
    write: Callable[[Mapping[str, Any]], Mapping[str, object]]


@dataclass(frozen=True)
class ObservationPath:
    """A path to which the vendor's clients post questions about the present.

    Attributes:
        path: The path.
        query_type: The kind of live reports that asks the same.
        read: Reads a body, and raises `InvalidQuery` if no live report can answer it.
    """

    path: str
    query_type: str
    read: Callable[[object], ObservationQuery]


@dataclass(frozen=True)
class ListingQuery:
    """What is asked of a listing.

    Attributes:
        selection: The entries.
        write: Returns the page in the vendor's form.
    """

    selection: NameSelection
    write: Callable[[NamePage], Mapping[str, object]]


@dataclass(frozen=True)
class ListingPath:
    """A path where the vendor lists entries by name.

    Attributes:
        path: The path.
        lookup: The name of the vendor's lookup that has them.
        read: Reads the parameters of a URL, and raises `InvalidQuery` if stored names cannot answer them.
    """

    path: str
    lookup: str
    read: Callable[[Sequence[tuple[str, str]]], ListingQuery]


@dataclass(frozen=True)
class UnservedPaths:
    """Paths that clients may expect, and that stored rows cannot answer.

    Attributes:
        prefix: What they begin with.
        reason: Why, and what to do.
    """

    prefix: str
    reason: str


@dataclass(frozen=True)
class ErrorFacts:
    """What went wrong with a request.

    Attributes:
        status: The HTTP status.
        kind: The last part of the problem type, such as ``invalid-query``.
        detail: The cause and remedy.
        correlation_id: The id of the request.
        retry_after: Seconds until the request may be sent again, if that is known.
    """

    status: int
    kind: str
    detail: str
    correlation_id: str
    retry_after: int | None


@dataclass(frozen=True)
class ServedApi:
    """The part of a vendor's API that is answered from stored rows.

    Attributes:
        vendor: The vendor's name.
        prefix: Everything below it is answered in the vendor's form, errors included.
        login_paths: Where its clients exchange credentials for an access token (RFC 6749, section 4.4).
        queries: The paths for queries that are answered at once.
        jobs: The paths for queries whose answers are fetched later.
        shared_jobs: The paths for queries that jobs of the vendor's own answer, where the settings allow it.
        observations: The paths for questions about the present.
        listings: The paths of listings.
        unserved: Paths whose refusal says more than that there is no such path.
        correlation_header: The response header that has the id of the request.
        describe_error: Returns the status and body of an error in the vendor's form.
    """

    vendor: str
    prefix: str
    login_paths: tuple[str, ...]
    queries: tuple[QueryPath, ...]
    jobs: tuple[JobPaths, ...]
    shared_jobs: tuple[SharedJobPaths, ...]
    observations: tuple[ObservationPath, ...]
    listings: tuple[ListingPath, ...]
    unserved: tuple[UnservedPaths, ...]
    correlation_header: str
    describe_error: Callable[[ErrorFacts], tuple[int, Mapping[str, object]]]


def format_instant(instant: datetime) -> str:
    """Format a UTC instant with milliseconds, as these APIs do."""
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_cursor(position: int) -> str:
    """Return the cursor of the page that begins at a position of an answer."""
    return base64.urlsafe_b64encode(str(position).encode()).decode()


def decode_cursor(cursor: str | None) -> int:
    """Return the position of a cursor; 0 without one.

    Raises:
        InvalidQuery: It is no cursor of ours.
    """
    if not cursor:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        text = ""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidQuery("cursor", "is not the cursor of a page of this job: send it as it came")
    return int(text)

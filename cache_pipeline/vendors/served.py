"""What a vendor's package exports so that its own API can be answered from stored rows, for clients that change only the host name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_pipeline.query.payload import QueryPayload

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ServedQuery:
    """A query in the vendor's form, read.

    Attributes:
        payloads: The query, and after it others that answer it with something less; the first that a report can answer
            is taken.
        render: Returns the answer in the vendor's form, from the rows of that query.
    """

    payloads: tuple[QueryPayload, ...]
    render: Callable[[pa.Table], Mapping[str, object]]


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
        prefix: Everything below it is answered in the vendor's form, errors included.
        login_paths: Where its clients exchange credentials for an access token (RFC 6749, section 4.4).
        queries: The paths for queries.
        correlation_header: The response header that has the id of the request.
        describe_error: Returns the status and body of an error in the vendor's form.
    """

    prefix: str
    login_paths: tuple[str, ...]
    queries: tuple[QueryPath, ...]
    correlation_header: str
    describe_error: Callable[[ErrorFacts], tuple[int, Mapping[str, object]]]

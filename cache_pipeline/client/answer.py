"""What the client receives and sends: answers, job progress, errors, and the headers and bodies of requests.

This module does no network access.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import httpx
import pandas as pd
import pyarrow as pa

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.storage.rendering import csv_heading, rows_as_csv

_ARROW = "application/vnd.apache.arrow.stream"
_MIN_RETRY_SECONDS = 0.2


class ApiError(CachePipelineError):
    """The API returned an error; the message is the API's own.

    Attributes:
        status: HTTP status.
        problem: The problem details, empty if the response had none.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, problem
        super().__init__(str(problem.get("detail") or f"the API returned status {status}"))


class KeyRefused(ApiError):
    """The API requires a key, or this key does not permit the request (401, 403)."""


class QueryRefused(ApiError):
    """The query or its report is not one that the API can answer (any other 4xx)."""


class ApiUnavailable(ApiError):
    """The API or what it needs cannot answer now (429, 5xx); the same query may succeed later."""

    retryable = True


class UnexpectedResponse(ApiError):
    """The response does not come from the API, or is damaged, for example a proxy's or a login's page."""


class ClientJobFailed(ApiError):
    """The job ended without an answer: it failed or was cancelled."""


@dataclass(frozen=True)
class ClientAnswer:
    """A finished answer.

    Attributes:
        table: The rows, with instants in UTC.
        complete_through: Every bucket that ends by this instant is final.
        provisional_from: Start of the first bucket that may still change, or None.
        cache_status: What the cache did (RFC 9211).
        etag: Identifies these bytes.
    """

    table: pa.Table
    complete_through: datetime
    provisional_from: datetime | None
    cache_status: str
    etag: str

    @property
    def observed_at(self) -> datetime | None:
        """When the vendor was asked for the live figures; None if there are none."""
        found = (self.table.schema.metadata or {}).get(b"observedAt")
        return datetime.fromisoformat(found.decode()) if found else None

    @property
    def live_problem(self) -> str | None:
        """Why the live figures that the query asked for are absent; None if they are not."""
        found = (self.table.schema.metadata or {}).get(b"liveProblem")
        return found.decode() if found else None

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a DataFrame."""
        return self.table.to_pandas()

    def to_csv(self, *, has_safe_text: bool = False) -> bytes:
        """Return the rows as the API writes them in CSV.

        Args:
            has_safe_text: Whether texts that a spreadsheet would run as formulas get a leading apostrophe.
        """
        heading = csv_heading(self.table.schema.names, has_safe_text=has_safe_text)
        return heading + rows_as_csv(self.table, has_safe_text=has_safe_text)


@dataclass(frozen=True)
class ProgressReport:
    """The progress of a job.

    Attributes:
        job_id: Id of the job.
        state: queued, running, done, failed or cancelled.
        percent: 0 to 100.
        retry_after: Seconds until the next poll is worthwhile.
        result: Path of the answer, once the job is done.
        problem: Why the job failed.
    """

    job_id: UUID
    state: str
    percent: float
    retry_after: float
    result: str | None
    problem: Mapping[str, Any] | None

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self.state in ("done", "failed", "cancelled")


def auth_headers(key: str | None) -> dict[str, str]:
    """Return the headers that authenticate every request.

    Raises:
        ValueError: The key cannot be a key of the API.
    """
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ValueError(
            "the API key contains characters that no key has: copy the whole key that `cache-pipeline keys create` printed"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def query_headers(wait: float, idempotency_key: str | None = None) -> dict[str, str]:
    """Return the headers of a query.

    Args:
        wait: Seconds that the server may hold the request instead of answering 202.
        idempotency_key: Makes a repeated POST follow the job of the first.
    """
    return {
        "Accept": f"{_ARROW}, application/problem+json;q=0.1",
        **({"Prefer": f"wait={wait:.0f}"} if wait >= 1 else {}),
        **({"Idempotency-Key": f'"{idempotency_key}"'} if idempotency_key else {}),
    }


def query_body(
    interval: str | None,
    group_by: Sequence[str] | None,
    metrics: Sequence[str] | None,
    granularity: str | None,
    time_zone: str | None,
    filters: Mapping[str, Any] | None,
    names: str | None = None,
    measures: Sequence[str] | None = None,
    as_of: datetime | str | None = None,
    *,
    live: bool = False,
) -> dict[str, Any]:
    """Return the body of a query. Arguments that are None keep the report's declaration."""
    fields = {
        "interval": interval,
        "groupBy": list(group_by) if group_by is not None else None,
        "metrics": list(metrics) if metrics is not None else None,
        "granularity": granularity,
        "timeZone": time_zone,
        "filters": dict(filters) if filters is not None else None,
        "names": names,
        "measures": list(measures) if measures is not None else None,
        "asOf": as_of.isoformat() if isinstance(as_of, datetime) else as_of,
        "live": live or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def api_error(response: httpx.Response) -> ApiError:
    """Return the error of an error response."""
    status = response.status_code
    if status < 400:
        return _unexpected(response)
    kind = KeyRefused if status in (401, 403) else ApiUnavailable if status == 429 or status >= 500 else QueryRefused
    return kind(status, _document(response) if _is_json(response) else {})


def parse_reports(response: httpx.Response) -> list[dict[str, Any]]:
    """Parse the list of reports.

    Raises:
        ApiError: The response is an error.
        UnexpectedResponse: The response is not the API's.
    """
    if response.status_code != 200:
        raise api_error(response)
    try:
        return _document(response)["reports"]
    except (KeyError, ValueError) as error:
        raise _unexpected(response) from error


def parse_response(response: httpx.Response) -> ClientAnswer | ProgressReport:
    """Parse the response to a query: an answer, or a job.

    Raises:
        ApiError: The response is an error.
        UnexpectedResponse: The response is not the API's, or is damaged.
    """
    if response.status_code == 202:
        return parse_job(response)
    if response.status_code != 200:
        raise api_error(response)
    provisional = response.headers.get("Provisional-From")
    try:
        return ClientAnswer(
            table=pa.ipc.open_stream(response.content).read_all(),
            complete_through=datetime.fromisoformat(response.headers["Complete-Through"]),
            provisional_from=datetime.fromisoformat(provisional) if provisional else None,
            cache_status=response.headers.get("Cache-Status", ""),
            etag=response.headers["ETag"],
        )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unexpected(response) from error


def parse_job(response: httpx.Response) -> ProgressReport:
    """Parse a job.

    Raises:
        ApiError: The response is an error.
        UnexpectedResponse: The response is not the API's.
    """
    if response.status_code not in (200, 202):
        raise api_error(response)
    try:
        job = _document(response)
        return ProgressReport(
            job_id=UUID(job["id"]),
            state=job["state"],
            percent=job["percent"],
            retry_after=max(_MIN_RETRY_SECONDS, retry_after(response) or 1.0),
            result=job["links"]["result"],
            problem=job["problem"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unexpected(response) from error


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a response asks to wait, from either form of Retry-After (RFC 9110, 10.2.3).

    A date counts from the Date of the same response, so that the clocks of both machines may differ. Without the header, or with one
    that cannot be parsed, return None.
    """
    value = response.headers.get("Retry-After", "")
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, (_parse_date(value) - _parse_date(response.headers["Date"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None


def _parse_date(value: str) -> datetime:
    date = parsedate_to_datetime(value)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def result_path(progress: ProgressReport, body: Mapping[str, Any]) -> str:
    """Return the path of a finished job's answer, with what the body asks for beside its figures: the job is the same without.

    Args:
        progress: The job.
        body: The body of the query.

    Raises:
        ClientJobFailed: The job has no answer.
    """
    if progress.result is None:
        problem = progress.problem or {"detail": f"the job was {progress.state}"}
        raise ClientJobFailed(int(problem.get("status", 502)), problem)
    measures = ",".join(body.get("measures") or ())
    added = {"names": body.get("names"), "measures": measures, "live": "true" if body.get("live") else None}
    parameters = {name: value for name, value in added.items() if value}
    return str(httpx.URL(progress.result).copy_merge_params(parameters)) if parameters else progress.result


def _unexpected(response: httpx.Response) -> UnexpectedResponse:
    media_type = response.headers.get("Content-Type", "no media type")
    detail = (
        f"the server answered {response.status_code} with {media_type}, which the API does not, or the body is damaged: check the "
        "base URL, and whether a proxy or a login page answers in place of the API"
    )
    return UnexpectedResponse(response.status_code, {"detail": detail})


def _is_json(response: httpx.Response) -> bool:
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _document(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object in a response.

    Raises:
        ValueError: There is none.
    """
    found: object = response.json()
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found  # pyright: ignore[reportUnknownVariableType]

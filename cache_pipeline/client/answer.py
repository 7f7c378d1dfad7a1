"""What a client gets: an answer, a job's progress, or an error; and how it asks. No network here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import pandas as pd
import pyarrow as pa

from cache_pipeline.errors import CachePipelineError

_ARROW = "application/vnd.apache.arrow.stream"
_LEAST_PAUSE_SECONDS = 0.2


class ApiError(CachePipelineError):
    """The API refused; the text is its own.

    Attributes:
        status: of HTTP.
        problem: the problem details, empty where the answer had none.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, problem
        super().__init__(str(problem.get("detail") or f"the API answered {status}"))


class ClientJobFailed(ApiError):
    """The job ended without an answer, by failing or by being cancelled."""


@dataclass(frozen=True)
class ClientAnswer:
    """A finished answer.

    Attributes:
        table: the rows; instants in UTC.
        complete_through: every bucket that ends by then is final.
        provisional_from: start of the first bucket that may still change, or None.
        cache_status: what the cache did (RFC 9211).
        etag: of these bytes.
    """

    table: pa.Table
    complete_through: datetime
    provisional_from: datetime | None
    cache_status: str
    etag: str

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        return self.table.to_pandas()


@dataclass(frozen=True)
class ProgressReport:
    """How far a job has come.

    Attributes:
        job_id: the job's.
        state: queued, running, done, failed or cancelled.
        percent: 0 to 100.
        retry_after: seconds until it is worth looking again.
        result: path of the answer, once it is there.
        problem: why it failed.
    """

    job_id: UUID
    state: str
    percent: float
    retry_after: float
    result: str | None
    problem: Mapping[str, Any] | None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ("done", "failed", "cancelled")


def headers_of(key: str | None) -> dict[str, str]:
    """What every request bears.

    Raises:
        ValueError: the key cannot be one of the API's.
    """
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ValueError(
            "the key holds characters that no key has: take the whole of what `cache-pipeline keys create` printed"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def build_request(wait: float) -> dict[str, str]:
    """What a question bears besides.

    Args:
        wait: seconds that the server may hold the request, instead of answering 202.
    """
    return {
        "Accept": f"{_ARROW}, application/problem+json;q=0.1",
        **({"Prefer": f"wait={wait:.0f}"} if wait >= 1 else {}),
    }


def query_url(
    interval: str,
    group_by: Sequence[str] | None,
    metrics: Sequence[str] | None,
    granularity: str | None,
    time_zone: str | None,
    filters: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The body of a question; what is None is as the report declares it."""
    said = {
        "interval": interval,
        "groupBy": list(group_by) if group_by is not None else None,
        "metrics": list(metrics) if metrics is not None else None,
        "granularity": granularity,
        "timeZone": time_zone,
        "filters": dict(filters) if filters is not None else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        found: object = response.json()
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def raise_for_problem(response: httpx.Response) -> ApiError:
    """What an error response says."""
    return ApiError(response.status_code, _document(response))


def read(response: httpx.Response) -> ClientAnswer | ProgressReport:
    """What a response to a question says.

    Raises:
        ApiError: it is an error.
    """
    if response.status_code == 202:
        return read_job(response)
    if response.status_code != 200:
        raise raise_for_problem(response)
    provisional = response.headers.get("Provisional-From")
    return ClientAnswer(
        table=pa.ipc.open_stream(response.content).read_all(),
        complete_through=datetime.fromisoformat(response.headers["Complete-Through"]),
        provisional_from=datetime.fromisoformat(provisional) if provisional else None,
        cache_status=response.headers.get("Cache-Status", ""),
        etag=response.headers["ETag"],
    )


def read_job(response: httpx.Response) -> ProgressReport:
    """A job.

    Raises:
        ApiError: the response is an error.
    """
    if response.status_code not in (200, 202):
        raise raise_for_problem(response)
    job = _document(response)
    return ProgressReport(
        job_id=UUID(job["id"]),
        state=job["state"],
        percent=job["percent"],
        retry_after=max(_LEAST_PAUSE_SECONDS, float(response.headers.get("Retry-After", 1))),
        result=job["links"]["result"],
        problem=job["problem"],
    )


def result_of(progress: ProgressReport) -> str:
    """Where the answer of an ended job is.

    Raises:
        ClientJobFailed: there is none.
    """
    if progress.result is None:
        problem = progress.problem or {"detail": f"the job was {progress.state}"}
        raise ClientJobFailed(int(problem.get("status", 502)), problem)
    return progress.result

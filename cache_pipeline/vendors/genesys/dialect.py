"""How Genesys Cloud describes errors and limits over HTTP.

The body of a 429 may name the limit that was reached: ``{"key", "namespace", "value"}``. We read the following out of the key; the
vendor's list of limits is public, their order of precedence is not:

- ``concurrent`` limits the number of jobs;
- ``org.``, ``organization.`` at the beginning: all clients of the organisation together;
- any other key in the namespace ``platform.api``, or in none: the OAuth client or its token;
- any other namespace: the endpoint that answered. Both kinds of detail jobs share one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from cache_pipeline.upstream.dialect import Dialect, LimitScope, NamedLimit, find_endpoint
from cache_pipeline.upstream.error_bodies import read_body
from cache_pipeline.upstream.http import httpx

_PLATFORM = "platform.api"
_WINDOW = re.compile(r"\.per\.(second|minute|hour|day)\b")
#: A minute is the window of the account's own limit, which the settings may shorten.
_WINDOW_SECONDS = {"second": 1.0, "minute": None, "hour": 3600.0, "day": 86_400.0}
_ORGANISATION_PREFIXES = ("org.", "organization.", "organisation.")
_JOBS = re.compile(r"/api/v2/analytics/[a-z]+/(details|aggregates)/jobs")
_JOB = re.compile(r"/api/v2/analytics/[a-z]+/(?:details|aggregates)/jobs/(?!availability$)[^/]+")
#: A notification channel's socket is opened by its id alone.
_CHANNEL = re.compile(r"(?<=/api/v2/notifications/channels/)[^/]+")
_ENDED_STATES = frozenset({"FULFILLED", "FAILED", "CANCELLED", "EXPIRED"})
#: The endpoint to which detail jobs of all families are submitted.
_DETAIL_JOBS = "details jobs"
_GONE = (404, 410)


def read_limit(limit: object) -> NamedLimit | None:
    """Return a limit in the vendor's form ``{"key", "namespace", "value"}``; None if it is not one that can be kept to."""
    if not isinstance(limit, dict):
        return None
    fields = cast("Mapping[str, object]", limit)
    key, namespace, value = fields.get("key"), fields.get("namespace"), fields.get("value")
    if not isinstance(key, str) or not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return None
    if "concurrent" in key:
        return NamedLimit(key, LimitScope.jobs, value)
    window = _WINDOW.search(key)
    if window is None:
        return None
    seconds = _WINDOW_SECONDS[window[1]]
    if key.startswith(_ORGANISATION_PREFIXES):
        return NamedLimit(key, LimitScope.organisation, value, seconds)
    is_of_client = namespace in (None, _PLATFORM)
    if is_of_client:
        return NamedLimit(key, LimitScope.client, value, seconds)
    endpoint = _DETAIL_JOBS if key.startswith("details.jobs.") else None
    return NamedLimit(key, LimitScope.endpoint, value, seconds, endpoint)


def _endpoint(method: str, path: str) -> str:
    jobs = _JOBS.fullmatch(path) if method == "POST" else None
    return f"{jobs[1]} jobs" if jobs else find_endpoint(method, path)


def _starts_job(method: str, path: str) -> bool:
    return method == "POST" and _JOBS.fullmatch(path) is not None


def _is_job(path: str) -> bool:
    return _JOB.fullmatch(path) is not None


def _started_job(_method: str, path: str, response: httpx.Response) -> str | None:
    job_id = read_body(response).get("jobId") if response.is_success else None
    return f"{path}/{job_id}" if isinstance(job_id, str) else None


def _ended_job(method: str, path: str, response: httpx.Response) -> str | None:
    if not _is_job(path):
        return None
    has_ended = response.status_code in _GONE or (
        response.is_success if method == "DELETE" else read_body(response).get("state") in _ENDED_STATES
    )
    return path if has_ended else None


DIALECT = Dialect(
    request_id_fields=("contextId",),
    read_limit=lambda body: read_limit(body.get("limit")),
    find_endpoint=_endpoint,
    starts_job=_starts_job,
    is_job=_is_job,
    started_job=_started_job,
    ended_job=_ended_job,
    shown_path=lambda path: _CHANNEL.sub("*", path),
)

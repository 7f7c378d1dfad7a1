"""What Genesys Cloud's answers say of limits and jobs: read from a 429's body and from the jobs' own answers."""

from typing import Any

import httpx
import pytest

from cache_pipeline.upstream.dialect import LimitScope
from cache_pipeline.upstream.error_bodies import read_named_limit
from cache_pipeline.vendors.genesys.dialect import DIALECT

JOBS = "/api/v2/analytics/conversations/details/jobs"


def named(limit: object) -> tuple[str, int, float | None] | None:
    response = httpx.Response(429, json={"code": "too.many.requests.retry.after", "limit": limit})
    response.extensions["dialect"] = DIALECT
    found = read_named_limit(response)
    return None if found is None else (found.scope, found.value, found.window_seconds)


@pytest.mark.parametrize(
    ("key", "namespace", "expected"),
    [
        ("org.app.user.rate.per.minute", "platform.api", (LimitScope.organisation, None)),
        ("organization.rate.per.hour", None, (LimitScope.organisation, 3600)),
        ("client.credentials.token.rate.per.minute", "platform.api", (LimitScope.client, None)),
        ("token.rate.per.day", None, (LimitScope.client, 86_400)),
        ("user.rate.per.minute", "directory", (LimitScope.endpoint, None)),
        ("details.jobs.rate.per.second", "analytics", (LimitScope.endpoint, 1)),
        ("details.jobs.concurrent.access.max", "analytics", (LimitScope.jobs, None)),
    ],
)
def test_named_limit_is_read_by_what_it_counts(
    key: str, namespace: str | None, expected: tuple[LimitScope, float | None]
) -> None:
    fields = {"key": key, "value": 90} | ({} if namespace is None else {"namespace": namespace})
    assert named(fields) == (expected[0], 90, expected[1])


@pytest.mark.parametrize(
    "limit",
    [
        {"key": "org.app.user.rate.per.minute", "value": "90"},
        {"key": "org.app.user.rate.per.minute", "value": True},
        {"key": "org.app.user.rate.per.minute", "value": 0},
        {"key": "org.app.user.rate.per.minute"},
        {"key": "request.bytes.max", "namespace": "platform.api", "value": 512_000},
        {"key": 7, "value": 90},
        "org",
        None,
    ],
)
def test_limit_that_cannot_be_kept_to_is_ignored(limit: object) -> None:
    assert named(limit) is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"null", b'"limit"', b'{"limit": {"key"'])
def test_refusal_with_another_body_names_no_limit(body: bytes) -> None:
    response = httpx.Response(429, content=body)
    response.extensions["dialect"] = DIALECT
    assert read_named_limit(response) is None


def test_detail_jobs_of_both_families_share_an_endpoint() -> None:
    found = {
        DIALECT.find_endpoint("POST", f"/api/v2/analytics/{family}/details/jobs")
        for family in ("conversations", "users")
    }
    assert found == {"details jobs"}
    assert DIALECT.find_endpoint("GET", f"{JOBS}/0f3e") == "GET /api/*/analytics/conversations/details/jobs/*"


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "ended"),
    [
        ("GET", f"{JOBS}/j1", 200, {"state": "FULFILLED"}, True),
        ("GET", f"{JOBS}/j1", 200, {"state": "FAILED"}, True),
        ("GET", f"{JOBS}/j1", 200, {"state": "CANCELLED"}, True),
        ("GET", f"{JOBS}/j1", 404, {}, True),
        ("GET", f"{JOBS}/j1", 200, {"state": "PENDING"}, False),
        ("GET", f"{JOBS}/j1", 403, {}, False),
        ("GET", f"{JOBS}/availability", 200, {"state": "FAILED"}, False),
        ("GET", f"{JOBS}/j1/results", 200, {}, False),
        ("DELETE", f"{JOBS}/j1", 204, None, True),
        ("DELETE", f"{JOBS}/j1", 403, {}, False),
    ],
)
def test_end_of_a_job_is_seen(method: str, path: str, status: int, body: Any, ended: bool) -> None:
    response = httpx.Response(status) if body is None else httpx.Response(status, json=body)
    assert DIALECT.ended_job(method, path, response) == (path if ended else None)


def test_accepted_job_is_named_as_its_polls_name_it() -> None:
    assert DIALECT.starts_job("POST", JOBS)
    assert not DIALECT.starts_job("GET", f"{JOBS}/j1")
    for status in (200, 202):
        assert DIALECT.started_job("POST", JOBS, httpx.Response(status, json={"jobId": "j1"})) == f"{JOBS}/j1"
    assert DIALECT.started_job("POST", JOBS, httpx.Response(400, json={"jobId": "j1"})) is None

"""Routes of asynchronous queries that jobs of the vendor's own answer: one for all who ask the same, through the shared quota.

The vendor keeps the answer of a job for about a day. Callers of one tenant whose questions are equal share a job for as long as the
vendor's data of the interval is complete to the same instant, but for six hours at most. Each has an id of its own, so none can
delete the job of another. Pages are kept for a few minutes, for those who read the same ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import check_account_access, check_query_type
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.routes.pass_through import PASSED_TIER
from cache_pipeline.api.routes.vendor_answers import VendorRoute, not_ready, rate_limit_headers, read_json
from cache_pipeline.errors import InvalidInterval, InvalidQuery, UpstreamError
from cache_pipeline.path_patterns import is_plain_path
from cache_pipeline.query.interval import parse_instant
from cache_pipeline.query.payload import find_only_account
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.submitted_queries import SubmittedQuery
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.served import ServedApi, SharedJobPaths, format_instant

#: How long a job is shared, and how long each of its callers may read it after that.
_SHARED_SECONDS = 6 * 60 * 60
_LIFETIME = timedelta(hours=6)
_PAGE_SECONDS = 10 * 60
_AVAILABILITY_SECONDS = 60
#: How often the vendor is asked whether a job has ended, however many callers ask us.
_POLL_SECONDS = 3
#: How often a job is looked after, whether its callers ask for its state or not.
_FOLLOW_SECONDS = 15.0
#: After that the quota counts a job no more, whether it has ended or not.
_FOLLOWED_SECONDS = QuotaPolicy.job_seconds
_MAX_CURSOR_LENGTH = 2048
_RETRY_AFTER_SECONDS = 5


class _VendorRefusal(UpstreamError):
    """An answer of the vendor's that is no success, and that the caller gets as it is."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"the vendor answered {response.status_code}")
        self.response = response


@dataclass(frozen=True)
class _VendorAnswer:
    """A successful answer of the vendor's, and the OAuth client that was used."""

    content: bytes
    oauth_client: str

    def read(self) -> Mapping[str, Any]:
        """Return its JSON object."""
        return _read_object(self.content)


@dataclass(frozen=True)
class _Caller:
    """A caller, and the account whose vendor is asked for it."""

    service: QueryService
    request: Request
    principal: Principal
    account_id: str

    def key(self, name: str) -> str:
        """Return the key of an answer, which only callers of the same tenant get."""
        return hashlib.sha256(json.dumps([self.principal.tenant, self.account_id, name]).encode()).hexdigest()

    async def find(self, name: str, ask: Callable[[], Awaitable[tuple[bytes, int]]]) -> tuple[bytes, bool]:
        """Return a kept answer, or ask the vendor for it; and whether it was kept."""
        return await self.service.shared_answers.find(self.key(name), self.principal.priority, ask)

    async def send(
        self, method: str, path: str, *, body: Mapping[str, object] | None = None, client: str | None = None
    ) -> _VendorAnswer:
        """Send a request to the vendor, and return its answer if that is a success.

        Raises:
            _VendorRefusal: It is none.
            Problem: 502 if the vendor does not accept our login, or its answer is too large.
        """
        vendor, limit = self.service.vendor_clients[self.account_id], self.service.settings.api.max_answer_bytes
        extensions: dict[str, object] = {"lane": self.principal.priority, "streamed": method == "GET"}
        if client is not None:
            extensions["oauth_client"] = client
        request = vendor.build_request(method, path, json=body, extensions=extensions)
        async with self.service.passing_slots.hold(self.principal.id):
            answer = await vendor.send(request, stream=True)
            try:
                content = await _read_bounded(answer, limit)
            finally:
                await answer.aclose()
        if answer.status_code == 401:
            raise Problem("vendor-login", 502, "the vendor does not accept the login of this service: see its log")
        if not answer.is_success:
            raise _VendorRefusal(Response(content, answer.status_code, media_type="application/json"))
        return _VendorAnswer(content, answer.extensions["oauth_client"])


async def _read_bounded(answer: httpx.Response, max_bytes: int) -> bytes:
    """Return an answer's body.

    Raises:
        Problem: 502 if it is too large.
    """
    if answer.is_stream_consumed:
        return answer.content
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > max_bytes:
            raise Problem("answer-too-large", 502, f"the vendor's page is larger than {max_bytes} bytes: ask for less")
    return bytes(content)


def shared_job_routes(served: Sequence[ServedApi]) -> list[VendorRoute]:
    """Return the routes of the jobs that are shared."""
    return [route for api in served for paths in api.shared_jobs for route in _routes(api.vendor, paths)]


def _routes(vendor: str, paths: SharedJobPaths) -> list[VendorRoute]:
    def route(
        template: str, method: str, answer: Callable[[SharedJobPaths, _Caller], Awaitable[Response]]
    ) -> VendorRoute:
        # Starlette takes a partial for an application.
        async def endpoint(request: Request) -> Response:
            return await _serve(vendor, paths, request, answer)

        return VendorRoute(template, endpoint, methods=[method])

    return [
        route(paths.submit, "POST", _submit),
        # Before the state of a job, of whose id it has the place.
        route(paths.availability, "GET", _show_availability),
        route(paths.status, "GET", _show_status),
        route(paths.results, "GET", _show_results),
        route(paths.status, "DELETE", _delete),
    ]


async def _serve(
    vendor: str,
    paths: SharedJobPaths,
    request: Request,
    answer: Callable[[SharedJobPaths, _Caller], Awaitable[Response]],
) -> Response:
    service: QueryService = request.app.state.query_service
    principal = await authenticate(service, request)
    check_account_access(principal, service.settings.tenant, "read details at the vendor's paths")
    check_query_type(principal, paths.query_type)
    account_id = f"{vendor}/{find_only_account(vendor, service.report_service.accounts)}"
    request.state.tier, request.state.passed_to = PASSED_TIER, account_id
    deadline = asyncio.timeout(service.settings.api.vendor_hold_seconds)
    try:
        async with deadline:
            response = await answer(paths, _Caller(service, request, principal, account_id))
    except TimeoutError:
        if not deadline.expired():
            raise
        raise not_ready(request, _RETRY_AFTER_SECONDS) from None
    except _VendorRefusal as refusal:
        response = refusal.response
    response.headers.update({"Cache-Control": "no-store", **rate_limit_headers(request)})
    return response


async def _submit(paths: SharedJobPaths, caller: _Caller) -> Response:
    question = paths.read(read_json(await caller.request.body()))
    # What the vendor did not know when the job was submitted, the job does not have.
    known_until = min(question.until, await _available_until(paths, caller))
    shared = f"job {paths.submit} {json.dumps(question.body, sort_keys=True)} {format_instant(known_until)}"

    async def ask() -> tuple[bytes, int]:
        answer = await caller.send("POST", paths.submit, body=question.body)
        job = {"id": _read_job_id(paths, answer), "client": answer.oauth_client, "shared": caller.key(shared)}
        caller.service.coalescer.run_in_background(f"follow {job['id']}", lambda: _follow(paths, caller, job))
        return json.dumps(job).encode(), _SHARED_SECONDS

    job, _ = await caller.find(shared, ask)
    # The question itself, which may have telephone numbers, is not stored.
    submitted = await caller.service.submitted_queries.add(
        caller.principal.tenant, caller.principal.id, paths.submit, json.loads(job), None, _LIFETIME
    )
    return JSONResponse({paths.job_field: str(submitted.id)}, 202)


def _read_job_id(paths: SharedJobPaths, answer: _VendorAnswer) -> str:
    """Return the id of the vendor's job.

    Raises:
        Problem: 502 if the answer has none that could be part of a path.
    """
    job_id = answer.read().get(paths.job_field)
    if not isinstance(job_id, str) or "/" in job_id or not is_plain_path(f"{paths.submit}/{job_id}"):
        raise Problem("vendor-answer", 502, "the vendor's answer has no id of a job")
    return job_id


def _read_object(content: bytes) -> Mapping[str, Any]:
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Problem("vendor-answer", 502, "the vendor's answer is no JSON object")
    return cast("Mapping[str, Any]", document)


async def _availability(paths: SharedJobPaths, caller: _Caller) -> bytes:
    async def ask() -> tuple[bytes, int]:
        answer = await caller.send("GET", paths.availability)
        return answer.content, _AVAILABILITY_SECONDS

    content, _ = await caller.find(f"availability {paths.availability}", ask)
    return content


async def _available_until(paths: SharedJobPaths, caller: _Caller) -> datetime:
    """Return until when the vendor's data is complete; if it does not say, the last quarter of an hour."""
    try:
        return _read_available(paths, await _availability(paths, caller))
    except _VendorRefusal:
        # A vendor may require a permission for it that jobs do not need.
        now = caller.service.clock()
        return now - timedelta(seconds=now.timestamp() % 900)


def _read_available(paths: SharedJobPaths, content: bytes) -> datetime:
    try:
        return parse_instant(str(_read_object(content).get(paths.available_field)))
    except InvalidInterval:
        raise Problem("vendor-answer", 502, f"the vendor's answer has no {paths.available_field}") from None


async def _show_availability(paths: SharedJobPaths, caller: _Caller) -> Response:
    return Response(await _availability(paths, caller), media_type="application/json")


async def _status(paths: SharedJobPaths, caller: _Caller, job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the vendor says of its job, as of some seconds ago if it has not ended."""
    path = paths.status.format(job_id=job["id"])

    async def ask() -> tuple[bytes, int]:
        answer = await caller.send("GET", path, client=job["client"])
        status = answer.read()
        if not paths.is_open(status) and not paths.is_done(status):
            # The next one who asks the same gets another job.
            await caller.service.shared_answers.store.remove(job["shared"])
        return answer.content, _POLL_SECONDS if paths.is_open(status) else _SHARED_SECONDS

    content, _ = await caller.find(f"status {path}", ask)
    return _read_object(content)


async def _follow(paths: SharedJobPaths, caller: _Caller, job: Mapping[str, Any]) -> None:
    """Read a job's state until it has ended: until then the quota counts it among the vendor's concurrent jobs."""
    is_open = True
    with suppress(TimeoutError):
        async with asyncio.timeout(_FOLLOWED_SECONDS):
            while is_open:
                await asyncio.sleep(_FOLLOW_SECONDS)
                is_open = paths.is_open(await _status(paths, caller, job))


async def _show_status(paths: SharedJobPaths, caller: _Caller) -> Response:
    submitted = await _find(paths, caller)
    status = await _status(paths, caller, submitted.body)
    return JSONResponse(paths.describe(status, submitted.expires_at))


async def _show_results(paths: SharedJobPaths, caller: _Caller) -> Response:
    submitted = await _find(paths, caller)
    job, parameters = submitted.body, _read_parameters(paths, caller.request)
    path = str(httpx.URL(paths.results.format(job_id=job["id"]), params=parameters))

    async def ask() -> tuple[bytes, int]:
        return (await caller.send("GET", path, client=job["client"])).content, _PAGE_SECONDS

    content, is_kept = await caller.find(f"page {path}", ask)
    status = "cache-pipeline; hit" if is_kept else "cache-pipeline; fwd=miss"
    return Response(content, headers={"Cache-Status": status}, media_type="application/json")


def _read_parameters(paths: SharedJobPaths, request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in ("cursor", "pageSize") or name in found:
            raise InvalidQuery(name[:80], "is unknown or given twice: use cursor and pageSize, each once")
        found[name] = value
    if len(found.get("cursor", "")) > _MAX_CURSOR_LENGTH:
        raise InvalidQuery("cursor", "is not the cursor of a page of this job: send it as it came")
    size = found.get("pageSize", "1")
    if not (size.isascii() and size.isdecimal() and len(size) < 10 and 1 <= int(size) <= paths.max_page_size):
        raise InvalidQuery("pageSize", f"is not a whole number from 1 to {paths.max_page_size}")
    return dict(sorted(found.items()))


async def _delete(paths: SharedJobPaths, caller: _Caller) -> Response:
    """Forget the caller's id. The vendor's job stays, because others may read it."""
    submitted = await _find(paths, caller)
    await caller.service.submitted_queries.remove(submitted.id)
    return Response(status_code=204)


async def _find(paths: SharedJobPaths, caller: _Caller) -> SubmittedQuery:
    text: str = caller.request.path_params["job_id"]
    try:
        found = await caller.service.submitted_queries.find(
            UUID(text), caller.principal.tenant, caller.principal.id, paths.submit
        )
    except ValueError:
        found = None
    if found is None:
        raise Problem("unknown-job", 404, f"unknown job {text[:80]!r}: submit it again")
    return found

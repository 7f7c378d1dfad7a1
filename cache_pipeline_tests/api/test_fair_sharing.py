"""A key that sends many requests at once does not keep another key of its lane waiting, whichever of the vendor's paths it uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.settings import ApiSettings
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.quota import Grant
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline_tests.api.conftest import AMPLE_VENDOR, Api, OpenApi, VendorClock
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_paths import BODY, PATH, REPORTS

LIMITS = "/api/v2/organizations/limits/namespaces/platform.api"
#: One request at a time. A short window costs no certainty: while the vendor holds an answer, no further request is permitted.
SCARCE = {"organisation_rate_limit": 1, "window_seconds": 0.02, "pass_through": [f"GET {LIMITS}"]}
WILD_DAY, WILD_REQUESTS = "2026-01-05", 20
QUIET_DAY, QUIET_REQUESTS = "2026-01-04", 2
#: In turn they are among the first four. One more for a process that was stopped for so long that its turn passed.
FIRST_FEW = 5


@dataclass
class HeldVendor:
    """Notes the requests for a path in the order of their arrival, and lets the simulator answer once it is released.

    Attributes:
        simulator: A client of the simulator.
        path: The path.
        received: Of each request for it, the query string and the body.
        is_asked: Whether it has received one.
        is_released: Whether it answers them.
    """

    simulator: httpx.AsyncClient
    path: str
    received: list[str] = field(default_factory=list)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    is_released: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == self.path:
            self.received.append(request.url.query + body.decode())
            self.is_asked.set()
            await self.is_released.wait()
        headers = {name: request.headers[name] for name in ("authorization", "content-type") if name in request.headers}
        target = f"{request.url.path}?{request.url.query}"
        answer = await self.simulator.request(request.method, target, content=body, headers=headers)
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])


Send = Callable[[Api, dict[str, str], datetime], Awaitable[httpx.Response]]


async def send_query(api: Api, key: dict[str, str], hour: datetime) -> httpx.Response:
    """Ask for an hour that is not stored."""
    interval = f"{hour.isoformat()}Z/{(hour + timedelta(hours=1)).isoformat()}Z"
    return await api.http.post(PATH, json=BODY | {"interval": interval}, headers=key)


async def send_passed(api: Api, key: dict[str, str], hour: datetime) -> httpx.Response:
    """Send what is passed on to the vendor."""
    return await api.http.get(f"{LIMITS}?at={hour.isoformat()}", headers=key)


def hours_of(day: str, count: int) -> list[datetime]:
    """Return the first hours of a day."""
    return [datetime.fromisoformat(day) + timedelta(hours=number) for number in range(count)]


@asynccontextmanager
async def scarce_vendor(open_api: OpenApi, path: str) -> AsyncIterator[tuple[Api, HeldVendor]]:
    """Open an API with a worker in front of a vendor that holds its answers for a path."""
    with running_simulator(SimulatorSettings(**AMPLE_VENDOR), clock=VendorClock()) as url:
        async with httpx.AsyncClient(base_url=url) as simulator:
            vendor = HeldVendor(simulator, path)
            settings = ApiSettings(auth="keys", vendor_hold_seconds=60)
            async with (
                served(vendor.app()) as vendor_url,
                open_api(*REPORTS, vendor_url=vendor_url, account_changes={"genesys": SCARCE}, api=settings) as api,
            ):
                api.start_worker()
                yield api, vendor


class QuotaQueue:
    """Counts the requests of this process that wait for a quota."""

    def __init__(self) -> None:
        self.requests = 0

    async def wait_for(self, requests: int) -> None:
        """Wait until so many requests wait."""
        while self.requests < requests:  # noqa: ASYNC110 - the quota sends no event
            await asyncio.sleep(0.01)


@pytest.fixture
def quota_queue(monkeypatch: pytest.MonkeyPatch) -> QuotaQueue:
    queue, acquire = QuotaQueue(), Quota.acquire

    async def counted(*args: Any, **options: Any) -> Grant:
        queue.requests += 1
        try:
            return await acquire(*args, **options)
        finally:
            queue.requests -= 1

    monkeypatch.setattr(Quota, "acquire", counted)
    return queue


@pytest.mark.parametrize(
    ("path", "send", "queued"),
    [
        (PATH, send_query, WILD_REQUESTS - 1),
        # A process passes on sixteen requests at once, and at most half of them for one key.
        (LIMITS, send_passed, 8 - 1),
    ],
    ids=["query", "passed on"],
)
async def test_wild_key_does_not_delay_a_quiet_one(
    open_api: OpenApi, quota_queue: QuotaQueue, path: str, send: Send, queued: int
):
    async with asyncio.timeout(60), scarce_vendor(open_api, path) as (api, vendor):
        wild_key, quiet_key = await create_key(api), await create_key(api)
        wild = [asyncio.create_task(send(api, wild_key, hour)) for hour in hours_of(WILD_DAY, WILD_REQUESTS)]
        # From then on the quota grants nothing, so the queue only grows.
        await vendor.is_asked.wait()
        await quota_queue.wait_for(queued)
        quiet = [asyncio.create_task(send(api, quiet_key, hour)) for hour in hours_of(QUIET_DAY, QUIET_REQUESTS)]
        await quota_queue.wait_for(queued + QUIET_REQUESTS)
        assert len(vendor.received) == 1
        vendor.is_released.set()
        answers = await asyncio.gather(*quiet, *wild)
    assert {answer.status_code for answer in answers} == {200}
    order = ["quiet" if QUIET_DAY in each else "wild" for each in vendor.received[1:]]
    assert len(order) == WILD_REQUESTS - 1 + QUIET_REQUESTS
    assert order[:FIRST_FEW].count("quiet") == QUIET_REQUESTS, order

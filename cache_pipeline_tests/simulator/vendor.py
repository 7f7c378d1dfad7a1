"""Helpers for simulator tests: a settable clock, and a client that only uses HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx

from cache_pipeline.simulator import SimulatorSettings, running_simulator

CLIENT, SECRET = "demo-client", "demo-secret"
REPORTDATA = "/api/v2/analytics/reportdata/query"
AGGREGATES = "/api/v2/analytics/conversations/aggregates"
AVAILABILITY = "/api/v2/analytics/conversations/details/jobs/availability"
NOW = "2024-06-12T10:00:30+00:00"
DAY = "2024-06-10T00:00:00Z/2024-06-11T00:00:00Z"

Json = dict[str, Any]


class SettableClock:
    def __init__(self, now: str = NOW) -> None:
        self.seconds = datetime.fromisoformat(now).timestamp()

    def now(self) -> float:
        return self.seconds


class Vendor:
    """One logged-in client."""

    def __init__(self, http: httpx.Client, clock: SettableClock) -> None:
        self.http = http
        self.clock = clock
        self.login()

    def login(self) -> None:
        answer = self.http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(CLIENT, SECRET))
        self.headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.http.get(path, params=params, headers=self.headers)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http.post(path, json=body, headers=self.headers)

    def delete(self, path: str) -> httpx.Response:
        return self.http.delete(path, headers=self.headers)

    def submit(self, **changes: Any) -> str:
        answer = self.post(f"{REPORTDATA}/async", report_body(**changes))
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def rows(self, **changes: Any) -> list[Json]:
        """Submit a query, advance the clock past its duration and read every page."""
        path = f"{REPORTDATA}/{self.submit(**changes)}"
        self.clock.seconds += 3600
        assert self.get(path).json()["status"] == "completed"
        return list(self.pages(f"{path}/results", "rows"))

    def pages(self, path: str, field: str, **params: Any) -> Iterator[Json]:
        cursor: Json = {}
        while True:
            page = self.get(path, **params, **cursor).json()
            yield from page[field]
            if "cursor" not in page:
                return
            cursor = {"cursor": page["cursor"]}

    def aggregate(self, **changes: Any) -> list[Json]:
        answer = self.post(f"{AGGREGATES}/query", aggregate_body(**changes))
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    def truth(self, interval: str, **params: Any) -> list[Json]:
        return self.http.get("/simulator/truth", params={"interval": interval, **params}).json()["rows"]


def report_body(**changes: Any) -> Json:
    return {"reportId": "queue-performance", "timeGrouping": "byHour", "interval": DAY, **changes}


def aggregate_body(**changes: Any) -> Json:
    body = {"interval": DAY, "granularity": "PT1H", "groupBy": ["queueId", "mediaType"], "metrics": ["nOffered"]}
    return {name: value for name, value in (body | changes).items() if value is not None}


@contextmanager
def open_vendor(settings: SimulatorSettings, clock: SettableClock | None = None) -> Iterator[Vendor]:
    clock = clock or SettableClock()
    with running_simulator(settings, clock=clock) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield Vendor(http, clock)


def offered(results: list[Json]) -> int:
    return sum(
        metric["stats"]["count"]
        for result in results
        for entry in result["data"]
        for metric in entry["metrics"]
        if metric["metric"] == "nOffered"
    )

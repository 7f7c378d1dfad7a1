"""Load on the deployment: callers of the HTTP API, and Dagster backfills."""

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import httpx

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.outcome import Outcome
from cache_pipeline_tests.chaos.processes import kill, start_process
from cache_pipeline_tests.chaos.scenario import REPORTS, ChaosReport
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.truth import VendorTruth

_END_STATES = ("done", "failed", "cancelled")
#: Shares of requests for some hours and for some days; the rest ask for today with ``no-cache``.
_HOURS_SHARE, _DAYS_SHARE = 0.6, 0.2
_PHASE_SECONDS = 15.0
#: The API repeats for 30 s why a job failed, without another request to the vendor. Attempts last longer in all.
_ATTEMPTS, _RETRY_SECONDS = 6, 8.0


@dataclass(frozen=True)
class ReportRequest:
    """A request for a report's rows.

    Attributes:
        report: The report.
        interval: ``start/end`` in UTC; covers local hours or days, the last of which may be today.
        no_cache: Whether provisional figures must be refetched from the vendor.
    """

    report: ChaosReport
    interval: str
    no_cache: bool = False

    @property
    def path(self) -> str:
        """Return the path of the report in the API."""
        return f"/v1/reports/{self.report.name}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the request's headers, without ``Prefer``."""
        return {"Cache-Control": "no-cache"} if self.no_cache else {}


class ApiCallers:
    """Clients that send requests to the HTTP API and check each answer against the vendor's data.

    Attributes:
        acknowledged: Jobs that the API accepted, by id.
    """

    def __init__(self, url: str, truth: VendorTruth, outcome: Outcome, seed: int) -> None:
        self.acknowledged: dict[str, ReportRequest] = {}
        self._url, self._truth, self._outcome, self._seed = url, truth, outcome, seed

    async def run(self, number: int, stop: asyncio.Event) -> None:
        """Run one client until `stop` is set."""
        rng, began = random.Random(self._seed * 1000 + number), time.monotonic()
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as http:
            while not stop.is_set():
                try:
                    await self._send(http, _random_request(rng), rng, stop)
                except httpx.HTTPError:
                    self._outcome.counts["API requests that failed"] += 1
                    await asyncio.sleep(0.2)
                # Busy phases fill the quota; quiet phases leave backfills their share of it.
                is_busy = (time.monotonic() - began) % (2 * _PHASE_SECONDS) < _PHASE_SECONDS
                await asyncio.sleep(rng.uniform(0.02, 0.3) if is_busy else rng.uniform(1.0, 3.0))

    async def request_weeks(self, truncations: asyncio.Queue[None], stop: asyncio.Event) -> None:
        """Request two whole weeks that were never requested whenever the vendor begins to truncate answers."""
        unrequested = [
            ReportRequest(report, report.interval(day, day + timedelta(days=7)))
            for report in REPORTS
            for day in report.weeks()
        ]
        random.Random(self._seed).shuffle(unrequested)
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as http:
            while unrequested and not stop.is_set():
                try:
                    await asyncio.wait_for(truncations.get(), 0.5)
                except TimeoutError:
                    continue
                for request in [unrequested.pop() for _ in range(min(2, len(unrequested)))]:
                    await self._enqueue(http, request)

    async def _enqueue(self, http: httpx.AsyncClient, request: ReportRequest) -> None:
        try:
            response = await http.get(
                request.path, params={"interval": request.interval}, headers={"Prefer": "respond-async"}
            )
        except httpx.HTTPError:
            self._outcome.counts["API requests that failed"] += 1
            return
        if response.status_code == 202:
            self.acknowledged[response.json()["id"]] = request
            self._outcome.counts["weeks requested during a truncation"] += 1

    async def poll_and_check(self, http: httpx.AsyncClient, request: ReportRequest) -> bool:
        """Repeat a request until it is answered and check the answer. Return False if `_ATTEMPTS` are not enough."""
        for _ in range(_ATTEMPTS):
            response = await http.get(
                request.path, params={"interval": request.interval}, headers={"Prefer": "wait=20", **request.headers}
            )
            if response.status_code == 200:
                await asyncio.to_thread(self._check, request, response)
                return True
            if response.status_code >= 400:
                await asyncio.sleep(_RETRY_SECONDS)
        return False

    async def _send(
        self, http: httpx.AsyncClient, request: ReportRequest, rng: random.Random, stop: asyncio.Event
    ) -> None:
        response = await http.get(
            request.path,
            params={"interval": request.interval},
            headers={"Prefer": rng.choice(["wait=2", "respond-async"]), **request.headers},
        )
        self._outcome.counts[f"API answers with status {response.status_code}"] += 1
        if response.status_code == 200:
            # The check waits for a restatement in progress; in a thread, so that the proxies keep running.
            await asyncio.to_thread(self._check, request, response)
        elif response.status_code == 202:
            job = response.json()["id"]
            self.acknowledged[job] = request
            if rng.random() < 0.5:
                await self._follow(http, job, stop)
        else:
            self._outcome.counts[f"problem {response.status_code}: {response.json().get('detail', '')[:100]}"] += 1

    async def _follow(self, http: httpx.AsyncClient, job: str, stop: asyncio.Event) -> None:
        for _ in range(8):
            await asyncio.sleep(0.5)
            if stop.is_set() or (await http.get(f"/v1/jobs/{job}")).json().get("state") in _END_STATES:
                return

    def _check(self, request: ReportRequest, response: httpx.Response) -> None:
        body = response.json()
        requested = Interval.parse(body["interval"])
        through = datetime.fromisoformat(body["completeThrough"])
        complete = IntervalSet([Interval(requested.start, through)] if requested.start < through else [])
        group, offered, talk = (body["columns"].index(name) for name in ("queue_id", *request.report.columns))
        figures = {
            (datetime.fromisoformat(row[0]), row[group]): (row[offered] or 0, int(row[talk] or 0))
            for row in body["rows"]
        }
        source = f"answer to {request.report.name} {request.interval}"
        if len(figures) != len(body["rows"]):
            self._outcome.record("duplicated", source)
        nonzero = {key: figure for key, figure in figures.items() if any(figure)}
        self._outcome.compare(source, nonzero, self._truth.versions(request.report), complete)


def _random_request(rng: random.Random) -> ReportRequest:
    report, draw = rng.choice(REPORTS), rng.random()
    days = [*report.recent_days(), report.today()]
    if draw < _HOURS_SHARE:
        midnight = report.midnight(rng.choice(days[:-1]))
        first = midnight + timedelta(hours=rng.randrange(20))
        return ReportRequest(report, _format_interval(first, first + timedelta(hours=rng.randint(1, 4))))
    if draw < _HOURS_SHARE + _DAYS_SHARE:
        first_day = rng.randrange(len(days))
        end = min(first_day + rng.randint(1, 3), len(days))
        return ReportRequest(report, report.interval(days[first_day], days[end - 1] + timedelta(days=1)))
    return ReportRequest(report, report.interval(days[-1], days[-1] + timedelta(days=1)), no_cache=True)


def _format_interval(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}"


async def run_backfills(system: System, outcome: Outcome, seed: int, stop: asyncio.Event) -> None:
    """Run one backfill after another until `stop` is set, each a Dagster run in a process of its own.

    A backfill covers some random days of a report, or refetches days that the vendor restated.
    """
    rng = random.Random(seed)
    while not stop.is_set():
        report = rng.choice(REPORTS)
        days = report.recent_days()
        refetch = bool(system.truth.restated) and rng.random() < 0.5
        if refetch:
            first, end = days_around(report, [rng.choice(system.truth.restated)])
            system.refetched.append((report.name, Interval(report.midnight(first), report.midnight(end))))
        else:
            index = rng.randrange(len(days) - 1)
            first, end = days[index], days[min(index + rng.randint(2, 5), len(days) - 1)]
        code = await run_backfill(system, report, first, end, stop=stop, refetch=refetch)
        outcome.counts[f"backfills that {_describe_exit(code)}{', of restated days' if refetch else ''}"] += 1


def days_around(report: ChaosReport, restated: list[date]) -> tuple[date, date]:
    """Return the first day and the end (exclusive) of a report's days around restated days of the organisation.

    Includes at least a day before and after, because the report has its own time zone and calls are long. Four days on
    each side also make an answer long enough to be truncated.
    """
    days = report.days()
    first, last = min(restated) - timedelta(days=4), max(restated) + timedelta(days=4)
    return max(first, days[0]), min(last, days[-1]) + timedelta(days=1)


def _describe_exit(code: int) -> str:
    return {0: "succeeded", -9: "were killed"}.get(code, "failed")


async def run_backfill(
    system: System,
    report: ChaosReport,
    first: date,
    end: date,
    *,
    stop: asyncio.Event | None = None,
    refetch: bool = False,
) -> int:
    """Run one backfill to its end, or kill it once `stop` is set. Return its exit code."""
    module = "cache_pipeline.orchestration.backfill"
    days = (first.isoformat(), end.isoformat())
    command = [sys.executable, "-m", module, report.name, *days, "--exclusive", *(["--refetch"] if refetch else [])]
    process = system.dagster = start_process(command, system.environment, system.folder, system.folder / "dagster.log")
    try:
        while process.poll() is None:
            if stop is not None and stop.is_set():
                kill(process)
            await asyncio.sleep(0.1)
    finally:
        kill(process)
    return process.returncode

"""The parts of one running simulator, built from its settings."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery, aggregate
from cache_pipeline.simulator.calls import Visibility
from cache_pipeline.simulator.clock import Clock
from cache_pipeline.simulator.counters import Counters
from cache_pipeline.simulator.directory import Directory
from cache_pipeline.simulator.errors import too_large
from cache_pipeline.simulator.faults import FaultInjector
from cache_pipeline.simulator.filters import Condition, is_one_of
from cache_pipeline.simulator.gdpr_requests import GdprRequests
from cache_pipeline.simulator.intervals import Interval, iso
from cache_pipeline.simulator.jobs import JobTooLargeError
from cache_pipeline.simulator.oauth import TokenIssuer
from cache_pipeline.simulator.organisation import Organisation, create_organisation
from cache_pipeline.simulator.presence import PresenceStore
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.truth import Truth, create_truth

Result = TypeVar("Result")

_MINUTE_MS = 60_000
_WORKERS = 2


@dataclass(frozen=True)
class Simulator:
    """The parts of a simulator. Answers are computed in `workers`, so that the event loop stays responsive."""

    settings: SimulatorSettings
    clock: Clock
    organisation: Organisation
    directory: Directory
    truth: Truth
    presence: PresenceStore
    gdpr_requests: GdprRequests
    tokens: TokenIssuer
    faults: FaultInjector
    counters: Counters
    workers: ThreadPoolExecutor

    def vendor_time(self, at: float) -> str:
        """Return the true instant `at` (seconds) by the vendor's clock."""
        return iso(int((at + self.faults.current.clock_offset_seconds) * 1000))

    def watermark_ms(self, now: float) -> int:
        """Return the whole minute up to which all data is visible at `now`, by the vendor's clock."""
        return self._watermark_ms(now, self.settings.watermark_lag_seconds)

    def details_watermark_ms(self, now: float) -> int:
        """Return the watermark of the data lake that details jobs read."""
        return self._watermark_ms(now, self._details_lag)

    def visibility(self, now: float) -> Visibility:
        """Return what is visible at `now`."""
        return Visibility(int(now * 1000), int(self.settings.watermark_lag_seconds * 1000))

    def details_visibility(self, now: float) -> Visibility:
        """Return what is visible to details jobs at `now`."""
        return Visibility(int(now * 1000), int(self._details_lag * 1000))

    def visible_until_ms(self, now: float, *, from_data_lake: bool) -> int:
        """Return the true instant up to which presence is visible at `now`; it has no gradual delay."""
        lag = self._details_lag if from_data_lake else self.settings.watermark_lag_seconds
        return int((now - lag) * 1000) // _MINUTE_MS * _MINUTE_MS

    @property
    def _details_lag(self) -> float:
        lag = self.settings.details_lag_seconds
        return self.settings.watermark_lag_seconds if lag is None else lag

    def _watermark_ms(self, now: float, lag: float) -> int:
        vendor_now = now + self.faults.current.clock_offset_seconds
        return int((vendor_now - lag) * 1000) // _MINUTE_MS * _MINUTE_MS

    def division_limit(self, client_id: str) -> Condition | None:
        """Return the condition for the calls in the divisions that a client can access; None for all calls."""
        numbers = self.settings.client_divisions.get(client_id)
        if numbers is None:
            return None
        return is_one_of(self.organisation, "divisionId", self.organisation.division_ids(numbers))

    def aggregate(self, query: AggregateQuery, visibility: Visibility | None) -> Aggregate:
        """Return the figures of `query`. This is expensive, so call it in a worker."""
        return aggregate(self.truth, self.organisation, query, visibility)

    def possible_cells(self, query: AggregateQuery) -> int:
        """Return the largest possible number of group-buckets of `query`."""
        cells = len(query.edges) - 1
        for dimension in query.group_by:
            cells *= self.organisation.size(dimension)
        return cells

    def start(self, work: Callable[[], Result]) -> "Future[Result]":
        """Start `work` in a worker thread."""
        return self.workers.submit(work)

    def start_job(self, work: Callable[[], Result], interval: Interval) -> "Future[Result]":
        """Start the query of a job for an interval; it may fail because of its size.

        Raises:
            ApiError: The query is refused because of its size.
        """
        if not self.faults.refuses_size(interval):
            return self.start(work)
        status = self.faults.current.size_refusal
        if status != "failed":
            raise too_large(status)

        def fail() -> Result:
            raise JobTooLargeError

        return self.start(fail)

    def check_size(self, interval: Interval) -> None:
        """Raise the refusal of a synchronous query because of its size."""
        if self.faults.refuses_size(interval):
            status = self.faults.current.size_refusal
            raise too_large(504 if status == "failed" else status)

    def max_rows(self) -> int | None:
        """Return the most rows that a query which starts now returns; None for the limits of the settings."""
        return self.faults.max_rows_at(self.clock.now())

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a worker thread and return its result."""
        return await asyncio.wrap_future(self.start(work))


def create_simulator(settings: SimulatorSettings, clock: Clock) -> Simulator:
    """Return a new simulator.

    Raises:
        SimulatorError: The arrivals file cannot be read.
    """
    truth, organisation = create_truth(settings), create_organisation(settings)
    return Simulator(
        settings=settings,
        clock=clock,
        organisation=organisation,
        directory=Directory(organisation, settings.seed),
        truth=truth,
        presence=PresenceStore(truth, settings.agents),
        gdpr_requests=GdprRequests(),
        tokens=TokenIssuer(settings),
        faults=FaultInjector(),
        counters=Counters(),
        workers=ThreadPoolExecutor(_WORKERS, thread_name_prefix="simulator"),
    )

"""Everything one running simulator holds, put together from its settings."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery, aggregate
from cache_pipeline.simulator.calls import Sight
from cache_pipeline.simulator.clock import Clock
from cache_pipeline.simulator.counters import Counters
from cache_pipeline.simulator.faults import FaultBoard
from cache_pipeline.simulator.filters import Condition, is_one_of
from cache_pipeline.simulator.intervals import iso
from cache_pipeline.simulator.oauth import TokenOffice
from cache_pipeline.simulator.organisation import Organisation, organisation_of
from cache_pipeline.simulator.presence import PresenceBook
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.truth import Truth, truth_of

Result = TypeVar("Result")

_MINUTE_MS = 60_000
_WORKERS = 2


@dataclass(frozen=True)
class Simulator:
    """The parts of a simulator; its answers are worked out in `workers`, so that the event loop goes on answering."""

    settings: SimulatorSettings
    clock: Clock
    organisation: Organisation
    truth: Truth
    presence: PresenceBook
    tokens: TokenOffice
    faults: FaultBoard
    counters: Counters
    workers: ThreadPoolExecutor

    def told_time(self, at: float) -> str:
        """Return the true instant `at` (seconds) as the vendor's clock tells it."""
        return iso(int((at + self.faults.current.clock_offset_seconds) * 1000))

    def watermark_ms(self, now: float) -> int:
        """Return the whole minute up to which everything can be seen at `now`, by the vendor's clock."""
        return self._watermark_ms(now, self.settings.watermark_lag_seconds)

    def details_watermark_ms(self, now: float) -> int:
        """Return the same for the data lake that details jobs read."""
        return self._watermark_ms(now, self._details_lag)

    def sight(self, now: float) -> Sight:
        """Return what can be seen at `now`."""
        return Sight(int(now * 1000), int(self.settings.watermark_lag_seconds * 1000))

    def details_sight(self, now: float) -> Sight:
        """Return what details jobs can see at `now`."""
        return Sight(int(now * 1000), int(self._details_lag * 1000))

    def seen_until_ms(self, now: float, *, in_lake: bool) -> int:
        """Return the true instant up to which presence can be seen at `now`: it is told all at once."""
        lag = self._details_lag if in_lake else self.settings.watermark_lag_seconds
        return int((now - lag) * 1000) // _MINUTE_MS * _MINUTE_MS

    @property
    def _details_lag(self) -> float:
        lag = self.settings.details_lag_seconds
        return self.settings.watermark_lag_seconds if lag is None else lag

    def _watermark_ms(self, now: float, lag: float) -> int:
        told = now + self.faults.current.clock_offset_seconds
        return int((told - lag) * 1000) // _MINUTE_MS * _MINUTE_MS

    def division_limit(self, client_id: str) -> Condition | None:
        """Return which calls a client may see: those of the divisions of its roles; None for all."""
        numbers = self.settings.client_divisions.get(client_id)
        if numbers is None:
            return None
        return is_one_of(self.organisation, "divisionId", self.organisation.named_divisions(numbers))

    def aggregate(self, query: AggregateQuery, sight: Sight | None) -> Aggregate:
        """Return the figures of `query`; heavy, so call it in a worker."""
        return aggregate(self.truth, self.organisation, query, sight)

    def possible_cells(self, query: AggregateQuery) -> int:
        """Return how many group-buckets `query` asks for, were there calls in each."""
        cells = len(query.edges) - 1
        for dimension in query.group_by:
            cells *= self.organisation.size(dimension)
        return cells

    def start(self, work: Callable[[], Result]) -> "Future[Result]":
        """Start `work` in a worker thread."""
        return self.workers.submit(work)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, done in a worker thread."""
        return await asyncio.wrap_future(self.start(work))


def simulator_of(settings: SimulatorSettings, clock: Clock) -> Simulator:
    """Return a simulator that nobody has asked anything yet.

    Raises:
        SimulatorError: The arrivals file cannot be read.
    """
    truth = truth_of(settings)
    return Simulator(
        settings=settings,
        clock=clock,
        organisation=organisation_of(settings),
        truth=truth,
        presence=PresenceBook(truth, settings.agents),
        tokens=TokenOffice(settings),
        faults=FaultBoard(),
        counters=Counters(),
        workers=ThreadPoolExecutor(_WORKERS, thread_name_prefix="simulator"),
    )

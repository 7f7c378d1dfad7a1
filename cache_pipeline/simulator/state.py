"""Everything one running simulator holds, put together from its settings."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery, Sight, aggregate
from cache_pipeline.simulator.clock import Clock
from cache_pipeline.simulator.counters import Counters
from cache_pipeline.simulator.faults import FaultBoard
from cache_pipeline.simulator.oauth import TokenOffice
from cache_pipeline.simulator.organisation import Organisation, organisation_of
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
    tokens: TokenOffice
    faults: FaultBoard
    counters: Counters
    workers: ThreadPoolExecutor

    def watermark_ms(self, now: float) -> int:
        """Return the whole minute up to which everything can be seen at `now`."""
        return int((now - self.settings.watermark_lag_seconds) * 1000) // _MINUTE_MS * _MINUTE_MS

    def sight(self, now: float) -> Sight:
        """Return what can be seen at `now`."""
        return Sight(int(now * 1000), int(self.settings.watermark_lag_seconds * 1000))

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
    return Simulator(
        settings=settings,
        clock=clock,
        organisation=organisation_of(settings),
        truth=truth_of(settings),
        tokens=TokenOffice(settings),
        faults=FaultBoard(),
        counters=Counters(),
        workers=ThreadPoolExecutor(_WORKERS, thread_name_prefix="simulator"),
    )

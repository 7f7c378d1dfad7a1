"""The counters of one process: no count is lost or shared twice when the process stops."""

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.api.monitoring import counters as counters_module
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.errors import RedisUnavailable


class SlowCounts:
    """Counts on a server that takes some time for each addition, and is unavailable for the first `failures`."""

    def __init__(self, seconds: float = 0.0, failures: int = 0) -> None:
        self.totals = Counter[str]()
        self.begun = asyncio.Event()
        self._seconds = seconds
        self._failures = failures

    async def add(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        self.begun.set()
        await asyncio.sleep(self._seconds)
        if self._failures:
            self._failures -= 1
            raise RedisUnavailable("connection refused")
        self.totals.update(counts)

    async def read(self) -> dict[str, float]:
        return {name: float(count) for name, count in self.totals.items()}

    read_today = read


async def _stop_while_sharing(store: SlowCounts) -> ProcessCounters:
    """Count one retry, and stop the counters while they share it."""
    counters = ProcessCounters(store)
    running = asyncio.create_task(counters.run())
    counters.count_job_retry()
    await store.begun.wait()
    await cancel_and_wait([running])
    return counters


@pytest.mark.parametrize("failures", [0, 1], ids=["available", "unavailable at first"])
async def test_counts_survive_the_stop_of_their_process(monkeypatch: pytest.MonkeyPatch, failures: int):
    monkeypatch.setattr(counters_module, "_FLUSH_SECONDS", 0.0)
    store = SlowCounts(seconds=0.05, failures=failures)
    await _stop_while_sharing(store)
    assert store.totals == {"retries": 1}


async def test_last_share_outlasts_repeated_cancellation(monkeypatch: pytest.MonkeyPatch):
    """`cancel_and_wait` cancels again after half a second, which a loaded server may take."""
    monkeypatch.setattr("cache_pipeline.aio._RECANCEL_SECONDS", 0.02)
    monkeypatch.setattr(counters_module, "_FLUSH_SECONDS", 0.0)
    store = SlowCounts(seconds=0.1)
    await _stop_while_sharing(store)
    assert store.totals == {"retries": 1}

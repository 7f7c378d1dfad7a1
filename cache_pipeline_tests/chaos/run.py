"""One chaos run: start the deployment, inject faults under load, settle, check."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache_pipeline_tests.chaos.checks import (
    check_final_state,
    check_latest_versions,
    record_peak_window_share,
    refetch_restated,
    settle,
)
from cache_pipeline_tests.chaos.faults import Fault
from cache_pipeline_tests.chaos.load import ApiCallers, run_backfills
from cache_pipeline_tests.chaos.outcome import Outcome
from cache_pipeline_tests.chaos.reader import ConsistencyReader
from cache_pipeline_tests.chaos.system import System

_CALLERS = 8


@dataclass(frozen=True)
class ChaosRun:
    """A chaos run and its parameters.

    Attributes:
        folder: Empty folder for project, data and logs.
        seed: Seed of the callers' requests.
        seconds: Duration of the faults.
        faults: Faults in order of time.
        report_progress: Called with the current activity ("" if unchanged) and the elapsed share of `seconds`, 0 to 1.
    """

    folder: Path
    seed: int
    seconds: float
    faults: list[Fault]
    report_progress: Callable[[str, float], None]

    async def execute(self) -> Outcome:
        """Execute the run and return its outcome."""
        outcome = Outcome()
        system = System(self.folder, outcome)
        try:
            self.report_progress("starting the deployment", 0)
            await system.start()
            callers = ApiCallers(system.api_url, system.truth, outcome, self.seed)
            reader = ConsistencyReader(system.postgres_url, system.edge_url, system.truth, outcome)
            reader.start()
            try:
                await self._inject_faults_under_load(system, callers, outcome)
                await asyncio.to_thread(record_peak_window_share, system, outcome)
                self.report_progress("settling: waiting for accepted jobs, then backfilling every day", 1)
                await system.clear_faults()
                await settle(system, callers, outcome)
                self.report_progress("comparing with the vendor's data", 1)
                await asyncio.to_thread(check_final_state, system, outcome)
                self.report_progress("refetching restated days and comparing again", 1)
                await refetch_restated(system, outcome)
                await asyncio.to_thread(check_latest_versions, system, outcome)
            finally:
                reader.stop()
            for name, times in system.unexpected_exits().items():
                if times:
                    outcome.counts[f"restarts of {name} after an unexpected exit"] = times
            outcome.counts["edge folder on its own full file system"] = int(system.disk.is_mounted)
        finally:
            self.report_progress("stopping", 1)
            await system.stop()
        return outcome

    async def _inject_faults_under_load(self, system: System, callers: ApiCallers, outcome: Outcome) -> None:
        stop, began = asyncio.Event(), time.monotonic()
        load = [asyncio.create_task(callers.run(number, stop)) for number in range(_CALLERS)]
        load.append(asyncio.create_task(callers.request_weeks(system.truncations, stop)))
        load.append(asyncio.create_task(run_backfills(system, outcome, self.seed, stop)))
        injected: list[asyncio.Task[None]] = []
        locks: dict[str, asyncio.Lock] = {}

        async def inject(fault: Fault) -> None:
            # Faults of one target never overlap.
            async with locks.setdefault(fault.target, asyncio.Lock()):
                await system.inject(fault)

        for fault in self.faults:
            while (elapsed := time.monotonic() - began) < fault.at:
                self.report_progress("", elapsed / self.seconds)
                await asyncio.sleep(min(0.5, fault.at - elapsed))
            self.report_progress(str(fault), elapsed / self.seconds)
            outcome.counts[f"fault: {fault.kind} {fault.target}"] += 1
            injected.append(asyncio.create_task(inject(fault)))
        while (elapsed := time.monotonic() - began) < self.seconds:
            self.report_progress("", elapsed / self.seconds)
            await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*injected, *load)

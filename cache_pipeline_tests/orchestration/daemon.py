"""Dagster's daemon on a clock of the test's own: evaluates a report's schedule and sensors, and runs what they request."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import dagster as dg

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.io_managers import EdgeIOManager, HistoryIOManager, HotIOManager
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.service.report_service import ReportService
from cache_pipeline_tests.orchestration.workbench import Bench
from cache_pipeline_tests.world import SteppedClock


def clocked_engine(clock: Callable[[], datetime]) -> EngineResource:
    """Return an engine whose sensors, checks and services read the test's clock."""

    class ClockedEngine(EngineResource):
        def now(self) -> datetime:
            return clock()

        @asynccontextmanager
        async def service(self) -> AsyncGenerator[ReportService]:
            async with EngineResource.service(self) as service:
                yield replace(service, clock=clock)

    return ClockedEngine()


@dataclass
class Daemon:
    """Evaluates a report's schedule and sensors, and runs what they request, one run after another."""

    bench: Bench
    instance: dg.DagsterInstance
    clock: SteppedClock
    failed_runs: int = 0
    requested: list[str] = field(default_factory=list[str])
    cursors: dict[str, str | None] = field(default_factory=dict[str, str | None])

    def __post_init__(self) -> None:
        self.engine = clocked_engine(self.clock)
        resources = {
            "cache_pipeline__engine": self.engine,
            "cache_pipeline__history_io_manager": HistoryIOManager(engine=self.engine),
            "cache_pipeline__hot_io_manager": HotIOManager(engine=self.engine),
            "cache_pipeline__edge_io_manager": EdgeIOManager(engine=self.engine),
        }
        reports = {self.bench.report.name: self.bench.report}
        self.definitions = build_defs(reports=reports, resource_overrides=resources)
        self.repository = self.definitions.get_repository_def()

    def tick_schedule(self, at: datetime) -> None:
        schedule = self.definitions.resolve_schedule_def(f"{self.bench.report.name}_schedule")
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=at, repository_def=self.repository
        )
        self._launch(schedule.evaluate_tick(context).run_requests or [])

    def tick_sensor(self, name: str) -> None:
        sensor = self.definitions.resolve_sensor_def(name)
        context = dg.build_sensor_context(
            instance=self.instance,
            resources={"cache_pipeline__engine": self.engine},
            cursor=self.cursors.get(name),
            repository_def=self.repository,
        )
        with context:
            tick = sensor.evaluate_tick(context)
        self.cursors[name] = tick.cursor
        self._launch(tick.run_requests or [])

    def _launch(self, requests: Iterable[dg.RunRequest]) -> None:
        for request in requests:
            assert request.run_key is not None
            if request.run_key in self.requested:
                continue
            self.requested.append(request.run_key)
            job = self.definitions.resolve_job_def(job_name(self.bench.report))
            result = job.execute_in_process(
                instance=self.instance,
                run_config=request.run_config,
                tags=request.tags,
                partition_key=request.partition_key,
                raise_on_error=False,
            )
            self.failed_runs += not result.success

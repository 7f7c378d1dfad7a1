"""The engine as a Dagster resource.

See https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import dagster as dg
from pydantic import PrivateAttr
from redis.asyncio import Redis

from cache_pipeline.bootstrap import edge_tier, migrate_history, open_service, pending_migrations, utc_now
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.orchestration.dagster_compat import keep_connections
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.storage.known_errors import known_error
from cache_pipeline.storage.postgres.history import History, open_history
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.redis.demand import Demand, DemandCounter
from cache_pipeline.telemetry.logs import set_up_logs
from cache_pipeline.telemetry.propagation import resume_context
from cache_pipeline.telemetry.spans import span
from cache_pipeline.telemetry.trace_export import export_traces


@contextmanager
def reported_failures() -> Generator[None]:
    """Turn known errors in the block into Dagster failures, which say what to do and whether a retry may help.

    Raises:
        Failure: A known error, as its one line.
    """
    try:
        yield
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        raise dg.Failure(str(known), metadata={"error": type(known).__name__}, allow_retries=known.retryable) from error


def _context_of_run(run_id: str | None) -> dict[str, str]:
    """A run's correlation id, and a trace that all its steps and processes share without being told: both are the run's id."""
    if run_id is None:
        return {}
    digits = run_id.replace("-", "")
    return {"correlation_id": run_id, "traceparent": f"00-{digits}-{digits[:16]}-01"}


class EngineResource(dg.ConfigurableResource[None]):
    """Opens the engine by the settings of the process that runs a step; nothing happens before that."""

    _run_id: str | None = PrivateAttr(default=None)
    _settings: Settings | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        """Those of the process's environment: a run may be executed far from where it was launched."""
        if self._settings is None:
            self._settings = read_settings()
        return self._settings

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Keep the run's id, which log lines and spans are told under, and read the settings anew."""
        if context.run and context.instance:
            # Not for a sensor's tick: its process lives on, and each tick would leave connections behind.
            keep_connections(context.instance)
        self._run_id = context.run.run_id if context.run else None
        self._settings = None

    @asynccontextmanager
    async def service(self) -> AsyncGenerator[ReportService]:
        """The engine, for as long as the block lasts.

        Raises:
            Failure: naming what is wrong and how to mend it.
        """
        with reported_failures(), self.told():
            async with open_service(self.settings) as service:
                yield service

    @contextmanager
    def told(self) -> Generator[None]:
        """Have log lines and spans of what is done in the block written, under the run's id.

        Raises:
            SettingsError: traces are wanted, and their extra is not installed.
        """
        settings = self.settings
        if settings.log.format != "auto":
            set_up_logs(settings.log, "dagster")
        with export_traces(settings, "dagster"), resume_context(_context_of_run(self._run_id)), span("dagster run"):
            yield

    @contextmanager
    def history(self) -> Generator[History]:
        """The history tier alone.

        Raises:
            Failure: naming what is wrong and how to mend it.
        """
        with reported_failures(), open_history(self.settings.required_postgres_url()) as history:
            yield history

    def prepare(self, report: Report) -> None:
        """Make the report's table in history where it is declared anew, so that adding a report is one YAML file.

        Raises:
            Failure: naming what is wrong and how to mend it.
        """
        settings = self.settings
        with reported_failures():
            # Looking needs no privilege; a role that may not create tables goes on where nothing is to be created.
            if pending_migrations(settings, {report.name: report}):
                migrate_history(settings, {report.name: report})

    def edge(self) -> EdgeTier:
        """The edge tier alone."""
        return edge_tier(self.settings)

    async def demand(self) -> list[Demand]:
        """What was asked for through the API in this hour and the last.

        Raises:
            Failure: Redis cannot be asked.
        """
        settings = self.settings
        with reported_failures():
            async with Redis.from_url(settings.required_redis_url()) as redis:
                return await DemandCounter(redis, settings.tenant, utc_now).recent()

    def staging(self) -> Staging:
        """Where fetched partitions wait for their checks."""
        return Staging(self.settings.data_dir / "staged")

    def tenant_series(self, report: Report) -> Series:
        """A report as this deployment's series."""
        return Series(report, self.settings.tenant)

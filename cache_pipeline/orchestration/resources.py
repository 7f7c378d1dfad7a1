"""The engine as a Dagster resource: opens services, tiers and telemetry for the process that runs a step.

See https://docs.dagster.io/guides/build/external-resources
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

from cache_pipeline.account_upkeep import refresh_account_facts
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import expire_history, migrate_history
from cache_pipeline.bootstrap.services import open_exporter, open_service
from cache_pipeline.bootstrap.stores import open_edge_tier, register_published
from cache_pipeline.orchestration.dagster_compat import reuse_connections
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.storage.known_errors import known_error

# As in bootstrap/, what takes long to import is imported by the function that needs it: a code location is loaded without it.
if TYPE_CHECKING:
    from cache_pipeline.fetch.staging import Staging
    from cache_pipeline.service.export import Exporter
    from cache_pipeline.service.report_service import ReportService
    from cache_pipeline.storage.ports.demand import Demand
    from cache_pipeline.storage.ports.history import CoverageReader, History
    from cache_pipeline.storage.published import EdgeTier


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


def _run_context(run_id: str | None) -> dict[str, str]:
    """Derive correlation id and trace id from the run's id, so that all its steps and processes share them."""
    if run_id is None:
        return {}
    digits = run_id.replace("-", "")
    return {"correlation_id": run_id, "traceparent": f"00-{digits}-{digits[:16]}-01"}


class EngineResource(dg.ConfigurableResource[None]):
    """Opens the engine with the settings of the process that runs a step, when a step first asks for it."""

    _run_id: str | None = PrivateAttr(default=None)
    _settings: Settings | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        """The settings of this process: a run may be executed on another machine than launched it."""
        if self._settings is None:
            self._settings = read_settings()
        return self._settings

    def now(self) -> datetime:
        """Return the current time, as of which sensors and checks decide."""
        return utc_now()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember the run's id, for log lines and spans, and forget the settings so that they are read again."""
        if context.run and context.instance:
            # Not for a sensor's tick: its process keeps running, and each tick would leave connections open.
            reuse_connections(context.instance)
        self._run_id = context.run.run_id if context.run else None
        self._settings = None

    @asynccontextmanager
    async def service(self) -> AsyncGenerator[ReportService]:
        """Open the report service for the duration of the block.

        Raises:
            Failure: A known error, with its remedy.
        """
        with reported_failures(), self.telemetry():
            await refresh_account_facts(self.settings)
            async with open_service(self.settings) as service:
                yield service

    @contextmanager
    def telemetry(self) -> Generator[None]:
        """Write the block's log lines and spans under the run's id.

        Raises:
            SettingsError: Traces are enabled, but the extra that exports them is not installed.
        """
        from cache_pipeline.telemetry.logs import set_up_logs
        from cache_pipeline.telemetry.propagation import resume_context
        from cache_pipeline.telemetry.spans import span
        from cache_pipeline.telemetry.trace_export import export_traces

        settings = self.settings
        if settings.log.format != "auto":
            set_up_logs(settings.log, "dagster")
        with export_traces(settings, "dagster"), resume_context(_run_context(self._run_id)), span("dagster run"):
            yield

    @contextmanager
    def history(self) -> Generator[History]:
        """Open the history tier for the duration of the block.

        Raises:
            Failure: A known error, with its remedy.
        """
        from cache_pipeline.storage.postgres.history import open_history

        with reported_failures(), open_history(self.settings.required_postgres_url()) as history:
            yield history

    @contextmanager
    def coverage(self) -> Generator[CoverageReader]:
        """Open the coverage of history alone for the duration of the block, which is ten times as fast.

        Raises:
            Failure: A known error, with its remedy.
        """
        from cache_pipeline.storage.postgres.coverage_queries import open_coverage

        with reported_failures(), open_coverage(self.settings.required_postgres_url()) as coverage:
            yield coverage

    def ensure_history_table(self, report: Report) -> None:
        """Create the report's table in history if it is missing, so that adding a report takes only a YAML file.

        Raises:
            Failure: A known error, with its remedy.
        """
        with reported_failures():
            # It looks first, which needs no privilege: a role that may not create tables still works if none is missing.
            migrate_history(self.settings, {report.name: report})

    def expire_history(self, report: Report) -> None:
        """Delete what the report does not keep any longer.

        Raises:
            Failure: A known error, with its remedy.
        """
        with reported_failures():
            expire_history(self.settings, [report], self.now())

    @contextmanager
    def exporter(self, report: Report) -> Generator[Exporter]:
        """Open the export of a report to the settings' warehouse for the duration of the block.

        Raises:
            Failure: A known error, with its remedy.
        """
        with reported_failures(), self.telemetry(), open_exporter(self.settings, report) as exporter:
            yield exporter

    def edge(self) -> EdgeTier:
        """Return the edge tier."""
        return open_edge_tier(self.settings)

    def register_published(self) -> None:
        """Register the published files in the catalogues that the settings name, if any.

        Raises:
            Failure: A known error, with its remedy.
        """
        with reported_failures():
            register_published(self.settings, self.edge())

    async def recent_demand(self) -> list[Demand]:
        """Return what was requested through the API in this hour and the last.

        Raises:
            Failure: Redis cannot be reached.
        """
        from cache_pipeline.redis_connection import open_redis
        from cache_pipeline.storage.redis.demand import RedisDemandCounter

        settings = self.settings
        with reported_failures():
            async with open_redis(settings.required_redis_url()) as redis:
                return await RedisDemandCounter(redis, settings.tenant, utc_now).recent()

    def staging(self) -> Staging:
        """Return the folder where fetched partitions are staged until their checks pass."""
        from cache_pipeline.fetch.staging import Staging

        return Staging(self.settings.staged_dir)

    def tenant_series(self, report: Report) -> Series:
        """Return the report's series for this deployment's tenant."""
        return Series(report, self.settings.tenant)

"""The contenders of `memory` and `details`: each loads one day of many rows from the vendor into Parquet and PostgreSQL, in a new process."""

import asyncio
import multiprocessing
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import SecretStr

from benchmarks.memory.vendor import DAY
from benchmarks.result import BenchmarkError
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.schema import rows_to_table, to_arrow_schema
from cache_pipeline.rows.row_checks import check_rows
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import ClientCredentials, Settings, StandaloneSettings, VendorAccount
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.published.aggregated_rows import publishable_rows
from cache_pipeline.vendors.base import VendorJobStatus

_NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)
_MIN_TIMEOUT_MINUTES = 9
#: A low rate, for machines that are busy with other things.
_MIN_ROWS_PER_MINUTE = 40_000
_KEY = "2026-01-05"


@dataclass(frozen=True)
class Setup:
    """Addresses of the servers, and the number of rows of the day."""

    vendor_url: str
    redis_url: str
    postgres_url: str
    folder: Path
    rows: int
    tenant: str

    @property
    def report(self) -> Report:
        """Return the report: one row per conversation, by hour."""
        return Report.model_validate(
            {
                "name": "conversation_details",
                "description": "Each conversation with its waiting and handling",
                "platform": "reportdata",
                "query_type": "conversation-details",
                "granularity": "PT1H",
                "group_by": ["conversationId", "queueId"],
                "metrics": ["offered", "answered", "waitMs", "handleMs"],
                "partition": "day",
                "start": DAY.start.date(),
                "fetch": {"expected_groups": self.rows // 24},
                "publish": {"tiers": ["history", "hot"]},
            }
        )

    @property
    def settings(self) -> Settings:
        """Return the settings of the process that fetches."""
        account: dict[str, Any] = {
            "base_url": self.vendor_url,
            "login_url": f"{self.vendor_url}/oauth/token",
            "clients": (ClientCredentials(client_id=str(self.rows), client_secret=SecretStr("secret"), weight=1),),
            "rate_limit": 1_000_000,
        }
        return StandaloneSettings(
            postgres_url=SecretStr(self.postgres_url),
            redis_url=SecretStr(self.redis_url),
            data_dir=self.folder,
            tenant=self.tenant,
            accounts={"reportdata": {"main": VendorAccount(**account)}},
        )


@dataclass(frozen=True)
class Measured:
    """Measurements of one process.

    Attributes:
        megabytes: Peak of resident memory.
        before: Peak of resident memory before the first request, in megabytes.
        seconds: Time from then to the end.
        stored: Rows in history.
    """

    megabytes: float
    before: float
    seconds: float
    stored: int


async def ours(setup: Setup, service: ReportService) -> None:
    """Fetch, verify, stage, check, store and, if the report has the edge tier, publish. Each step reads its input from disk."""
    report, staging = setup.report, Staging(setup.folder / "staged")
    series = service.series(report)
    async for event in service.fetch(report, {_KEY: DAY}, Lane.backfill):
        if isinstance(event, FailedPartition):
            raise BenchmarkError(f"the fetch failed: {event.error}") from event.error
        if isinstance(event, FetchedPartition):
            await asyncio.to_thread(staging.write, series, event)
    staged = await asyncio.to_thread(staging.read, series, _KEY, DAY)
    if staged is None:
        raise BenchmarkError("nothing was staged")
    await asyncio.to_thread(check_rows, staged.rows, report, DAY)
    await service.store(report, [staged])
    if Tier.edge in report.publish.tiers:
        await asyncio.to_thread(_publish, setup, staged.rows)


def _publish(setup: Setup, rows: Rows) -> None:
    counted = publishable_rows(setup.report, rows)
    if (total := pc.sum(counted[setup.report.rows or ""]).as_py()) != setup.rows:
        raise BenchmarkError(f"the edge counts {total:,} rows of {setup.rows:,}")
    open_edge_tier(setup.settings).publish(setup.report, {DAY: counted}, None)


async def collect_in_list(setup: Setup, service: ReportService) -> None:
    """Fetch the same pages, collect the rows in a list and convert it to one Arrow table."""
    report, platform = setup.report, service.adapter(setup.report)
    job = await platform.submit(report, DAY, Lane.backfill)
    status = VendorJobStatus(is_done=False)
    while not status.is_done:
        status = await platform.status(job)
    rows: list[dict[str, Any]] = []
    async for page in platform.pages(job, report):
        rows.extend(page.rows.to_pylist())
    table = rows_to_table(rows, to_arrow_schema(platform.columns(report)))
    intervals = IntervalSet([DAY])
    stored = Replacement(
        service.series(report),
        intervals,
        IntervalSet(),
        Rows.from_table(table),
        DAY.end,
        (FetchTime(intervals, service.clock()),),
    )
    await asyncio.to_thread(pq.write_table, table, setup.folder / "collected.parquet", compression="zstd")
    await asyncio.to_thread(service.history.replace, stored)


CONTENDERS: Mapping[str, Callable[[Setup, ReportService], Awaitable[None]]] = MappingProxyType(
    {"ours": ours, "a list of rows": collect_in_list}
)


def run_contender(contender: str, setup: Setup) -> Measured:
    """Run one contender in a new process and return its measurements.

    Raises:
        BenchmarkError: It failed or did not end in time.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, child_end = spawn.Pipe()
    process = spawn.Process(target=_run, args=(contender, setup, child_end), daemon=True)
    process.start()
    child_end.close()
    try:
        minutes = max(_MIN_TIMEOUT_MINUTES, setup.rows // _MIN_ROWS_PER_MINUTE)
        if not receiver.poll(60 * minutes):
            raise BenchmarkError(f"{contender} with {setup.rows:,} rows did not end in {minutes} minutes")
        return receiver.recv()
    except EOFError:
        raise BenchmarkError(f"{contender} with {setup.rows:,} rows failed; see its output above") from None
    finally:
        process.terminate()
        process.join()


def _run(contender: str, setup: Setup, parent: Connection) -> None:
    async def run() -> Measured:
        async with open_service(setup.settings) as opened_service:
            service = replace(opened_service, clock=lambda: _NOW)
            before, started = _peak_megabytes(), time.perf_counter()
            await CONTENDERS[contender](setup, service)
            peak, seconds = _peak_megabytes(), time.perf_counter() - started
            groups = service.history.groups_by_bucket(service.series(setup.report), DAY)
        return Measured(peak, before, seconds, sum(groups.values()))

    parent.send(asyncio.run(run()))


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (1e6 if sys.platform == "darwin" else 1e3)

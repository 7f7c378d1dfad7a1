"""`details`: peak resident memory of a day of conversation details, from the vendor's format to history and edge.

Unlike in `memory`, whose vendor sends flat rows, this vendor answers as Genesys does: a details job, and pages of a thousand
conversations with participants, sessions, segments and metrics. Each conversation is flattened to a row; rows are staged as
Parquet, checked, loaded into PostgreSQL, and counted by queue and medium for the edge, each time in a new process. The peer
publishes nothing. The vendor repeats one page of the simulator's conversations (`benchmarks.memory.details_vendor`).

`details` uses 50,000 and 200,000 conversations. `details-full`, which runs only by its name, uses 250,000, 500,000 and 1,000,000;
there the peer runs only with the first size, because its list would need gigabytes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.memory.details_vendor import DetailsVendor, fetch_template
from benchmarks.memory.extract import CONTENDERS, Measured, Setup, run_contender
from benchmarks.memory.vendor import DAY, vendor_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ClientCredentials, Settings, StandaloneSettings, VendorAccount
from cache_pipeline.simulator import SimulatorError

_SIZES = (50_000, 200_000)
_FULL_SIZES = (250_000, 500_000, 1_000_000)
_OURS, _PEER = CONTENDERS


@dataclass(frozen=True)
class DetailsSetup(Setup):
    """Addresses of the servers, and the number of conversations of the day."""

    @property
    def report(self) -> Report:
        """Return the report: one row per conversation, by hour."""
        return Report.model_validate(
            {
                "name": "conversations",
                "description": "Each conversation with its times",
                "platform": "genesys",
                "query_type": "conversations",
                "rows": "conversations",
                "group_by": ["conversationId"],
                "metrics": ["nOffered", "nTransferred", "tTalk", "tHandle"],
                "granularity": "PT1H",
                "partition": "day",
                "start": DAY.start.date(),
                "publish": {"tiers": ["history", "edge"], "edge_group_by": ["firstQueueId", "mediaType"]},
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
            accounts={"genesys": {"main": VendorAccount(**account)}},
        )


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or history does not have the rows.
    """
    return _measure_sizes("details", _SIZES, _SIZES, progress)


def measure_full(progress: ProgressCallback) -> Result:
    """Run the benchmark with up to a million rows.

    Raises:
        BenchmarkError: As in `measure`.
    """
    return _measure_sizes("details-full", _FULL_SIZES, _FULL_SIZES[:1], progress)


def _measure_sizes(name: str, sizes: Sequence[int], peer_sizes: Sequence[int], progress: ProgressCallback) -> Result:
    found: dict[tuple[str, int], Measured] = {}
    runs = [(_OURS, rows) for rows in sizes] + [(_PEER, rows) for rows in peer_sizes]
    try:
        template = fetch_template()
        with (
            tempfile.TemporaryDirectory() as folder,
            embedded_servers(Path(folder) / "servers") as servers,
            vendor_process(partial(DetailsVendor, template)) as url,
        ):
            for contender, rows in runs:
                progress(f"{contender}, {rows:,} conversations")
                data = Path(folder) / f"data-{len(found)}"
                data.mkdir()
                setup = DetailsSetup(url, servers.redis_url, servers.postgres_url, data, rows, f"tenant{len(found)}")
                migrate_history(setup.settings, {setup.report.name: setup.report})
                run = run_contender(contender, setup)
                if run.stored != rows:
                    raise BenchmarkError(f"history has {run.stored:,} rows of {rows:,}")
                found[contender, rows] = run
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error
    return Result(name, _rows(found, sizes))


def _rows(found: dict[tuple[str, int], Measured], sizes: Sequence[int]) -> tuple[Row, ...]:
    few, many = sizes[0], sizes[-1]

    def peer_figures(rows: int) -> Measured | None:
        return found.get((_PEER, rows))

    def peak(rows: int) -> Row:
        peer = peer_figures(rows)
        return Row(
            f"peak memory, {rows:,} conversations",
            found[_OURS, rows].megabytes,
            "MB",
            {_PEER: peer.megabytes} if peer else {},
            target=Target("ours", "<=", 400),
        )

    peer_few, peer_many = peer_figures(few), peer_figures(many)
    return (
        *map(peak, sizes),
        Row(
            f"peak with {many:,} conversations ÷ peak with {few:,}",
            found[_OURS, many].megabytes / found[_OURS, few].megabytes,
            "times",
            {_PEER: peer_many.megabytes / peer_few.megabytes} if peer_many and peer_few else {},
            target=Target("ours", "<=", 1.1),
        ),
        Row("memory before the first request", found[_OURS, many].before, "MB"),
        Row(
            f"time for {many:,} conversations",
            found[_OURS, many].seconds,
            "s",
            {_PEER: peer_many.seconds} if peer_many else {},
        ),
    )

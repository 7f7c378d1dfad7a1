"""`details`: peak resident memory of a day of conversation details, read from the vendor's own shape into history.

Unlike `memory`, whose vendor makes up flat rows, this one asks the simulator of Genesys: a details job, pages of a thousand
conversations with participants, sessions, segments and metrics, flattened to a row each, staged as Parquet, checked and loaded
into PostgreSQL, each time in a fresh process. The simulator works every conversation out, which takes most of the time, so the
days are smaller than a million; memory that follows the page and not the day is the same for both.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.memory.extract import CONTENDERS, Measured, Setup, measured
from benchmarks.memory.vendor import DAY
from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.query.report import Report
from cache_pipeline.service.engine import migrate_history
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorError, SimulatorSettings

_FEW, _MANY = 25_000, 100_000
_OURS, _PEER = CONTENDERS


@dataclass(frozen=True)
class DetailsSetup(Setup):
    """Where everything is, and about how many conversations the day has."""

    @property
    def report(self) -> Report:
        """One row for each conversation, by hour."""
        return Report.model_validate(
            {
                "report": "conversations",
                "description": "Each conversation with its times",
                "platform": "genesys",
                "query_type": "conversations",
                "rows": "conversations",
                "group_by": [],
                "metrics": ["nOffered", "nTransferred", "tTalk", "tHandle"],
                "granularity": "PT1H",
                "partition": "day",
                "start": DAY.start.date(),
                "tiers": ["history"],
            }
        )

    @property
    def settings(self) -> Settings:
        """Those of the process that fetches."""
        account: dict[str, Any] = {
            "base_url": self.vendor_url,
            "clients": (ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret"), weight=1),),
            "requests_per_window": 1_000_000,
        }
        return Settings(
            postgres_url=SecretStr(self.postgres_url),
            redis_url=SecretStr(self.redis_url),
            data_dir=self.folder,
            tenant=self.tenant,
            genesys=VendorAccount(**account),
        )


def measure(tell: Tell) -> Result:
    """Runs the benchmark.

    Raises:
        BenchmarkError: A process failed, or history does not have the rows.
    """
    found: dict[tuple[str, int], Measured] = {}
    try:
        with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers") as servers:
            for rows in (_FEW, _MANY):
                vendor = SimulatorSettings(conversations_per_working_day=rows, genesys_rate_limit=1_000_000)
                with simulator_process(vendor) as url:
                    for contender in CONTENDERS:
                        tell(f"{contender}, about {rows:,} conversations")
                        data = Path(folder) / f"data-{len(found)}"
                        data.mkdir()
                        where = (url, servers.redis_url, servers.postgres_url, data)
                        setup = DetailsSetup(*where, rows, f"tenant{len(found)}")
                        migrate_history(setup.settings, {setup.report.report: setup.report})
                        found[contender, rows] = measured(contender, setup)
                _agree(found[_OURS, rows], found[_PEER, rows], rows)
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error
    return Result("details", _rows(found))


def _agree(ours: Measured, theirs: Measured, rows: int) -> None:
    if ours.kept != theirs.kept or ours.kept < rows:
        raise BenchmarkError(f"history has {ours.kept:,} rows, the peer's {theirs.kept:,}, of at least {rows:,}")


def _rows(found: dict[tuple[str, int], Measured]) -> tuple[Row, ...]:
    few, many = (found[_OURS, rows] for rows in (_FEW, _MANY))
    less, more = (found[_PEER, rows] for rows in (_FEW, _MANY))
    peer = {_PEER: more.megabytes}
    return (
        Row(f"peak, {few.kept:,} conversations", few.megabytes, "MB", {_PEER: less.megabytes}),
        Row(f"peak, {many.kept:,} conversations", many.megabytes, "MB", peer, target=Target("ours", "<=", 400)),
        Row(
            f"peak of {many.kept:,}, of that of {few.kept:,}",
            many.megabytes / few.megabytes,
            "times",
            {_PEER: more.megabytes / less.megabytes},
            target=Target("ours", "<=", 1.1),
        ),
        Row(f"{many.kept:,} conversations took", many.seconds, "s", {_PEER: more.seconds}),
    )

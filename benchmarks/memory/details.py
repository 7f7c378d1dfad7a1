"""`details`: peak resident memory of a day of conversation details, read from the vendor's own shape into history.

Unlike `memory`, whose vendor makes up flat rows, this one answers as Genesys does: a details job, pages of a thousand
conversations with participants, sessions, segments and metrics, flattened to a row each, staged as Parquet, checked, loaded into
PostgreSQL, and counted by queue and medium for the edge, each time in a fresh process; the peer publishes nothing. The vendor tells a page of the simulator's conversations again and again
(`benchmarks.memory.details_vendor`).

`details` is of fifty and of two hundred thousand conversations. `details-full`, run only by its name, is of a quarter, a half and a
whole million; the list of rows is not tried on more than the first, for it would need gigabytes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.memory.details_vendor import DetailsVendor, simulated_page
from benchmarks.memory.extract import CONTENDERS, Measured, Setup, measured
from benchmarks.memory.vendor import DAY, vendor_process
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.bootstrap import migrate_history
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorError

_SIZES = (50_000, 200_000)
_FULL_SIZES = (250_000, 500_000, 1_000_000)
_OURS, _PEER = CONTENDERS


@dataclass(frozen=True)
class DetailsSetup(Setup):
    """Where everything is, and how many conversations the day has."""

    @property
    def report(self) -> Report:
        """One row for each conversation, by hour."""
        return Report.model_validate(
            {
                "name": "conversations",
                "description": "Each conversation with its times",
                "platform": "genesys",
                "query_type": "conversations",
                "rows": "conversations",
                "group_by": [],
                "metrics": ["nOffered", "nTransferred", "tTalk", "tHandle"],
                "granularity": "PT1H",
                "partition": "day",
                "start": DAY.start.date(),
                "publish": {"tiers": ["history", "edge"], "edge_group_by": ["firstQueueId", "mediaType"]},
            }
        )

    @property
    def settings(self) -> Settings:
        """Those of the process that fetches."""
        account: dict[str, Any] = {
            "base_url": self.vendor_url,
            "login_url": f"{self.vendor_url}/oauth/token",
            "clients": (ClientCredentials(client_id=str(self.rows), client_secret=SecretStr("secret"), weight=1),),
            "rate_limit": 1_000_000,
        }
        return Settings(
            postgres_url=SecretStr(self.postgres_url),
            redis_url=SecretStr(self.redis_url),
            data_dir=self.folder,
            tenant=self.tenant,
            genesys=VendorAccount(**account),
        )


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or history does not have the rows.
    """
    return _measured("details", _SIZES, _SIZES, tell)


def measure_full(tell: Tell) -> Result:
    """Run it up to a million rows.

    Raises:
        BenchmarkError: As `measure` does.
    """
    return _measured("details-full", _FULL_SIZES, _FULL_SIZES[:1], tell)


def _measured(name: str, sizes: Sequence[int], peer_sizes: Sequence[int], tell: Tell) -> Result:
    found: dict[tuple[str, int], Measured] = {}
    runs = [(_OURS, rows) for rows in sizes] + [(_PEER, rows) for rows in peer_sizes]
    try:
        page = simulated_page()
        with (
            tempfile.TemporaryDirectory() as folder,
            embedded_servers(Path(folder) / "servers") as servers,
            vendor_process(partial(DetailsVendor, page)) as url,
        ):
            for contender, rows in runs:
                tell(f"{contender}, {rows:,} conversations")
                data = Path(folder) / f"data-{len(found)}"
                data.mkdir()
                setup = DetailsSetup(url, servers.redis_url, servers.postgres_url, data, rows, f"tenant{len(found)}")
                migrate_history(setup.settings, {setup.report.name: setup.report})
                run = measured(contender, setup)
                if run.kept != rows:
                    raise BenchmarkError(f"history has {run.kept:,} rows of {rows:,}")
                found[contender, rows] = run
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error
    return Result(name, _rows(found, sizes))


def _rows(found: dict[tuple[str, int], Measured], sizes: Sequence[int]) -> tuple[Row, ...]:
    few, many = sizes[0], sizes[-1]

    def of_peer(rows: int) -> Measured | None:
        return found.get((_PEER, rows))

    def peak(rows: int) -> Row:
        peer = of_peer(rows)
        return Row(
            f"peak, {rows:,} conversations",
            found[_OURS, rows].megabytes,
            "MB",
            {_PEER: peer.megabytes} if peer else {},
            target=Target("ours", "<=", 400),
        )

    less, more = of_peer(few), of_peer(many)
    return (
        *map(peak, sizes),
        Row(
            f"peak of {many:,}, of that of {few:,}",
            found[_OURS, many].megabytes / found[_OURS, few].megabytes,
            "times",
            {_PEER: more.megabytes / less.megabytes} if more and less else {},
            target=Target("ours", "<=", 1.1),
        ),
        Row("before the first request", found[_OURS, many].before, "MB"),
        Row(f"{many:,} conversations took", found[_OURS, many].seconds, "s", {_PEER: more.seconds} if more else {}),
    )

"""`memory`: peak resident memory of a large extract, compared with collecting its rows in a list.

One day of 250,000 and of 1,000,000 rows (one conversation each) is fetched, verified, staged as Parquet, checked and loaded into
PostgreSQL, each time in a new process. The peer sends the same requests and reads pages with the same code, but collects the rows
in a list, and writes the same Parquet file and table without any check.

The vendor is a small HTTP server with the guide's contract in its own process (`benchmarks.memory.vendor`), with pages of a thousand
rows, because the simulator would take longer than what is measured. Memory is the peak resident set size of the process
(`getrusage`), including Python and libraries. Temporary files do not count; the page cache that holds them is the system's.

Not measured: several large extracts at once. Each holds four megabytes of rows before it spills to disk, and some more in transit.
"""

import tempfile
from pathlib import Path

from benchmarks.memory.extract import CONTENDERS, Measured, Setup, run_contender
from benchmarks.memory.vendor import vendor_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers

_FEW, _MANY = 250_000, 1_000_000
_OURS, _PEER = CONTENDERS


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or history does not have the rows.
    """
    found: dict[tuple[str, int], Measured] = {}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            embedded_servers(Path(folder) / "servers") as servers,
            vendor_process() as vendor_url,
        ):
            for contender in CONTENDERS:
                for rows in (_FEW, _MANY):
                    progress(f"{contender}, {rows:,} rows")
                    data = Path(folder) / f"data-{len(found)}"
                    data.mkdir()
                    setup = Setup(
                        vendor_url, servers.redis_url, servers.postgres_url, data, rows, f"tenant{len(found)}"
                    )
                    migrate_history(setup.settings, {setup.report.name: setup.report})
                    found[contender, rows] = _check_rows(run_contender(contender, setup), rows)
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error
    return Result("memory", _rows(found))


def _check_rows(measured: Measured, rows: int) -> Measured:
    if measured.stored != rows:
        raise BenchmarkError(f"history has {measured.stored:,} rows of {rows:,}")
    return measured


def _rows(found: dict[tuple[str, int], Measured]) -> tuple[Row, ...]:
    def peak_row(rows: int, target: Target | None = None) -> Row:
        peer = {_PEER: found[_PEER, rows].megabytes}
        return Row(f"peak memory, {rows:,} rows", found[_OURS, rows].megabytes, "MB", peer, target=target)

    def growth(contender: str) -> float:
        return found[contender, _MANY].megabytes / found[contender, _FEW].megabytes

    return (
        peak_row(_FEW),
        peak_row(_MANY, Target("ours", "<=", 400)),
        Row(
            f"peak with {_MANY:,} rows ÷ peak with {_FEW:,}",
            growth(_OURS),
            "times",
            {_PEER: growth(_PEER)},
            target=Target("ours", "<=", 1.1),
        ),
        Row("memory before the first request", found[_OURS, _MANY].before, "MB", {_PEER: found[_PEER, _MANY].before}),
        Row(f"time for {_MANY:,} rows", found[_OURS, _MANY].seconds, "s", {_PEER: found[_PEER, _MANY].seconds}),
    )

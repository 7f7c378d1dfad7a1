"""`memory`: peak resident memory of a large extract, against gathering its rows in a list.

One day of a quarter of a million and of a million rows, a conversation each, is asked for, judged, staged as Parquet,
checked and loaded into PostgreSQL, each time in a fresh process; the peer sends the same requests and reads pages with
the same code, gathers the rows in a list, and writes the same Parquet and the same table, without any check.

The vendor is a small HTTP server in the guide's contract, in a process of its own (`benchmarks.memory.vendor`), with pages of a
thousand rows: the simulator would be busy for longer than what is measured. Memory is what the operating system says was the
most that the process ever had resident (`getrusage`), Python and libraries included; temporary files are not memory, and
the page cache that holds them is the system's.

Not measured: several large extracts at a time. Each holds four megabytes of rows before it goes to disk, and some more on the way.
"""

import tempfile
from pathlib import Path

from benchmarks.memory.extract import CONTENDERS, Measured, Setup, measured
from benchmarks.memory.vendor import vendor_process
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.bootstrap import migrate_history
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers

_FEW, _MANY = 250_000, 1_000_000
_OURS, _PEER = CONTENDERS


def measure(tell: Tell) -> Result:
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
                    tell(f"{contender}, {rows:,} rows")
                    data = Path(folder) / f"data-{len(found)}"
                    data.mkdir()
                    setup = Setup(
                        vendor_url, servers.redis_url, servers.postgres_url, data, rows, f"tenant{len(found)}"
                    )
                    migrate_history(setup.settings, {setup.report.name: setup.report})
                    found[contender, rows] = _checked(measured(contender, setup), rows)
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error
    return Result("memory", _rows(found))


def _checked(measured: Measured, rows: int) -> Measured:
    if measured.kept != rows:
        raise BenchmarkError(f"history has {measured.kept:,} rows of {rows:,}")
    return measured


def _rows(found: dict[tuple[str, int], Measured]) -> tuple[Row, ...]:
    def peaks(rows: int, target: Target | None = None) -> Row:
        peer = {_PEER: found[_PEER, rows].megabytes}
        return Row(f"peak, {rows:,} rows", found[_OURS, rows].megabytes, "MB", peer, target=target)

    def growth(contender: str) -> float:
        return found[contender, _MANY].megabytes / found[contender, _FEW].megabytes

    return (
        peaks(_FEW),
        peaks(_MANY, Target("ours", "<=", 400)),
        Row(
            f"peak of {_MANY:,} rows, of that of {_FEW:,}",
            growth(_OURS),
            "times",
            {_PEER: growth(_PEER)},
            target=Target("ours", "<=", 1.1),
        ),
        Row("before the first request", found[_OURS, _MANY].before, "MB", {_PEER: found[_PEER, _MANY].before}),
        Row(f"{_MANY:,} rows took", found[_OURS, _MANY].seconds, "s", {_PEER: found[_PEER, _MANY].seconds}),
    )

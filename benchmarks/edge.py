"""`edge`: publishing a report's days to a static store, against rewriting the whole as one Parquet file.

Both are handed the same rows, 60 days by hour of 40 queues in 3 media, and write with the same Parquet settings through the
same kind of store, a local folder. Four publishings follow each other: everything for the first time, the same once more,
one day of them restated whose month is one file, and one of the month that is still open. All 60 days are handed over each time but the last, so that what is not uploaded was
told apart by its content; the last hands over one restated day alone, as a pipeline does that knows what it fetched anew.
The peer gets its rows in the narrower types that browsers read, which the tier itself must first make of them.

Uploads are Parquet files that are new or changed in the folder afterwards; bytes are those of every file that is, so that
the manifest and the snapshots count against us. Seconds are the median of several runs, ours and the peer's in turn.

Not measured: the network of a real object store, where a byte costs more than here and a request some tens of
milliseconds, and what the CDN and the browsers save by files that never change.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import LocalStore

from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, arrow_schema, snake_case
from cache_pipeline.storage.published import EdgeTier

_DAYS, _QUEUES, _MEDIA = 60, 40, ("callback", "chat", "voice")
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
#: February has just ended and may still be corrected, so that its days are files of their own; January is one file.
_NOW = datetime(2026, 3, 2, tzinfo=UTC)
#: The last day of January; the next is February's first.
_RESTATED = 30
_RUNS = 3
_PEER = "one file, rewritten"
_REPORT = Report.model_validate(
    {
        "name": "queue_hour",
        "description": "Offered, answered, abandoned and handling by queue and medium, by hour",
        "platform": "reportdata",
        "query_type": "queue-performance",
        "granularity": "PT1H",
        "group_by": ["queueId", "mediaType"],
        "metrics": ["offered", "answered", "abandoned", "handleMs"],
        "partition": "day",
        "start": _FIRST_DAY.date(),
    }
)

Days = Mapping[Interval, pa.Table]


@dataclass(frozen=True)
class _Step:
    """What one publishing put into the folder."""

    uploads: int
    kilobytes: float
    seconds: float


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: What was published is not what was handed over.
    """
    tell("making rows")
    days = {day: _rows(day, number) for number, day in enumerate(_day(number) for number in range(_DAYS))}
    restated_day = _day(_RESTATED)
    restated: Days = {**days, restated_day: _rows(restated_day, _DAYS)}
    steps: dict[str, Days] = {
        "first publish": days,
        "nothing changed": days,
        "a day of a closed month restated": restated,
        "a day of the open month restated, handed over alone": {
            _day(_RESTATED + 1): _rows(_day(_RESTATED + 1), _DAYS + 1)
        },
    }
    final: Days = {**restated, **steps["a day of the open month restated, handed over alone"]}
    ours: list[list[_Step]] = []
    peers: list[list[_Step]] = []
    for run in range(_RUNS):
        tell(f"run {run + 1} of {_RUNS}")
        with tempfile.TemporaryDirectory() as folder:
            ours.append(_publish_ours(Path(folder), list(steps.values()), final))
        with tempfile.TemporaryDirectory() as folder:
            peers.append(_rewrite_whole(Path(folder), list(steps.values()), final))
    rows = [
        row
        for number, what in enumerate(steps)
        for row in _told(what, [run[number] for run in ours], [run[number] for run in peers])
    ]
    return Result("edge", tuple(rows))


def _told(what: str, ours: Sequence[_Step], peer: Sequence[_Step]) -> list[Row]:
    fewest = {"first publish": None, "nothing changed": 0}.get(what, 1)
    target = None if fewest is None else Target("ours", "=", fewest)
    # Uploads and bytes are the same in every run; were they not, the worst would be told.
    uploads, kilobytes = max(step.uploads for step in ours), max(step.kilobytes for step in ours)
    seconds = statistics.median(step.seconds for step in ours)
    return [
        Row(what, uploads, "uploads", {_PEER: max(step.uploads for step in peer)}, target=target),
        Row(what, kilobytes, "KB", {_PEER: max(step.kilobytes for step in peer)}),
        Row(what, seconds, "s", {_PEER: statistics.median(step.seconds for step in peer)}),
    ]


def _publish_ours(folder: Path, steps: Sequence[Days], final: Days) -> list[_Step]:
    tier = EdgeTier(f"file://{folder}", lambda: _NOW)
    told = [_step(folder, lambda days=days: tier.publish(_REPORT, days, None)) for days in steps]
    _check(tier.read(_REPORT, Interval(_day(0).start, _day(_DAYS - 1).end)), final)
    return told


def _for_browsers(rows: pa.Table) -> pa.Table:
    kinds: dict[pa.DataType, pa.DataType] = {
        pa.int64(): pa.float64(),
        pa.timestamp("us", tz="UTC"): pa.timestamp("ms", tz="UTC"),
    }
    return rows.cast(
        pa.schema([field.with_type(kinds[field.type]) if field.type in kinds else field for field in rows.schema])
    )


def _rewrite_whole(folder: Path, steps: Sequence[Days], final: Days) -> list[_Step]:
    store = LocalStore(folder)
    held: dict[Interval, pa.Table] = {}

    def publish(days: Days) -> None:
        held.update(days)
        buffer = io.BytesIO()
        pq.write_table(
            pa.concat_tables(held.values()),
            buffer,
            compression="zstd",
            compression_level=9,
            row_group_size=64 * 1024,
            write_page_index=True,
        )
        obstore.put(store, "queue_hour.parquet", buffer.getvalue())

    narrow = [{day: _for_browsers(rows) for day, rows in days.items()} for days in steps]
    told = [_step(folder, lambda days=days: publish(days)) for days in narrow]
    _check(pq.read_table(folder / "queue_hour.parquet"), final)
    return told


def _step(folder: Path, publish: Callable[[], object]) -> _Step:
    before = _state(folder)
    started = time.perf_counter()
    publish()
    seconds = time.perf_counter() - started
    written = [path for path, state in _state(folder).items() if before.get(path) != state]
    return _Step(
        uploads=sum(path.suffix == ".parquet" for path in written),
        kilobytes=sum(path.stat().st_size for path in written) / 1000,
        seconds=seconds,
    )


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".parquet", ".json")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def _check(published: pa.Table, days: Days) -> None:
    for name in ("offered", "handle_ms"):
        found = _total([published], name)
        wanted = _total(days.values(), name)
        if found != wanted:
            raise BenchmarkError(f"published {name} add up to {found}, and {wanted} were handed over")


def _total(tables: Iterable[pa.Table], name: str) -> int:
    return sum(round(value) for table in tables for value in table[name].to_pylist() if value is not None)


def _day(number: int) -> Interval:
    start = _FIRST_DAY + timedelta(days=number)
    return Interval(start, start + timedelta(days=1))


def _rows(day: Interval, seed: int) -> pa.Table:
    """Every queue and medium in every hour, in the order a tier keeps them in."""
    random = np.random.default_rng(seed)
    groups = [(medium, f"queue-{queue:02}") for medium in _MEDIA for queue in range(_QUEUES)]
    hours = [day.start + timedelta(hours=hour) for hour in range(24)]
    count = len(hours) * len(groups)
    offered = random.poisson(12, count)
    answered = random.binomial(offered, 0.93)
    columns: dict[str, Any] = {
        "interval_start": [hour for hour in hours for _ in groups],
        "interval_end": [hour + timedelta(hours=1) for hour in hours for _ in groups],
        "media_type": [medium for _ in hours for medium, _ in groups],
        "queue_id": [queue for _ in hours for _, queue in groups],
        "offered": offered,
        "answered": answered,
        "abandoned": offered - answered,
        "handle_ms": answered * random.integers(120_000, 420_000, count),
    }
    schema = arrow_schema(
        (
            *(Column(snake_case(name), ColumnKind.dimension, nullable=True) for name in _REPORT.group_by),
            *(Column(snake_case(name), ColumnKind.integer) for name in _REPORT.metrics),
        )
    )
    return pa.Table.from_arrays([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)

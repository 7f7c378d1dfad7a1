"""`edge`: publishing a report's days to a static store, compared with rewriting one Parquet file.

Both get the same rows (60 days by hour of 40 queues in 3 media) and write with the same Parquet settings to the same kind of
store, a local folder. There are four publications: everything for the first time, the same again, one restated day of a closed
month (one file), and one restated day of the open month. The first three pass all 60 days, so an upload can only be avoided by
comparing content; the last passes the restated day alone, as a pipeline does that knows what it refetched. The peer gets its
rows in the narrower types that browsers read; the tier has to convert them itself.

Uploads are Parquet files that are new or changed afterwards. Bytes are those of every new or changed file, so that manifest and
snapshots count against us. Seconds are the median of several runs, ours and the peer's in turns.

Not measured: the network of a real object store, where bytes cost more and each request takes tens of milliseconds; and what
CDN and browsers save because files never change.
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

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, to_arrow_schema, to_snake_case
from cache_pipeline.storage.published import EdgeTier

_DAYS, _QUEUES, _MEDIA = 60, 40, ("callback", "chat", "voice")
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
#: February has just ended and may still be restated, so each of its days is a file. January is one file.
_NOW = datetime(2026, 3, 2, tzinfo=UTC)
#: Number of the last day of January; the next day is the first of February.
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
class _Publication:
    """What one publication wrote to the folder."""

    uploads: int
    kilobytes: float
    seconds: float


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: The published rows differ from the rows passed.
    """
    progress("making rows")
    days = {day: _rows(day, number) for number, day in enumerate(_day(number) for number in range(_DAYS))}
    restated_day = _day(_RESTATED)
    restated: Days = {**days, restated_day: _rows(restated_day, _DAYS)}
    steps: dict[str, Days] = {
        "first publish": days,
        "nothing changed": days,
        "a day of a closed month restated": restated,
        "a day of the open month restated, passed alone": {_day(_RESTATED + 1): _rows(_day(_RESTATED + 1), _DAYS + 1)},
    }
    final: Days = {**restated, **steps["a day of the open month restated, passed alone"]}
    ours: list[list[_Publication]] = []
    peers: list[list[_Publication]] = []
    for run in range(_RUNS):
        progress(f"run {run + 1} of {_RUNS}")
        with tempfile.TemporaryDirectory() as folder:
            ours.append(_publish_ours(Path(folder), list(steps.values()), final))
        with tempfile.TemporaryDirectory() as folder:
            peers.append(_publish_peer(Path(folder), list(steps.values()), final))
    rows = [
        row
        for number, what in enumerate(steps)
        for row in _make_rows(what, [run[number] for run in ours], [run[number] for run in peers])
    ]
    return Result("edge", tuple(rows))


def _make_rows(what: str, ours: Sequence[_Publication], peer: Sequence[_Publication]) -> list[Row]:
    fewest = {"first publish": None, "nothing changed": 0}.get(what, 1)
    target = None if fewest is None else Target("ours", "=", fewest)
    # Uploads and bytes should be equal in every run; report the worst in case they are not.
    uploads, kilobytes = max(step.uploads for step in ours), max(step.kilobytes for step in ours)
    seconds = statistics.median(step.seconds for step in ours)
    return [
        Row(what, uploads, "uploads", {_PEER: max(step.uploads for step in peer)}, target=target),
        Row(what, kilobytes, "KB", {_PEER: max(step.kilobytes for step in peer)}),
        Row(what, seconds, "s", {_PEER: statistics.median(step.seconds for step in peer)}),
    ]


def _publish_ours(folder: Path, steps: Sequence[Days], final: Days) -> list[_Publication]:
    tier = EdgeTier(f"file://{folder}", lambda: _NOW)
    publications = [_measure(folder, lambda days=days: tier.publish(_REPORT, days, None)) for days in steps]
    _check(tier.read(_REPORT, Interval(_day(0).start, _day(_DAYS - 1).end)), final)
    return publications


def _narrow_types(rows: pa.Table) -> pa.Table:
    narrower: dict[pa.DataType, pa.DataType] = {
        pa.int64(): pa.float64(),
        pa.timestamp("us", tz="UTC"): pa.timestamp("ms", tz="UTC"),
    }
    return rows.cast(
        pa.schema([field.with_type(narrower[field.type]) if field.type in narrower else field for field in rows.schema])
    )


def _publish_peer(folder: Path, steps: Sequence[Days], final: Days) -> list[_Publication]:
    store = LocalStore(folder)
    published: dict[Interval, pa.Table] = {}

    def publish(days: Days) -> None:
        published.update(days)
        buffer = io.BytesIO()
        pq.write_table(
            pa.concat_tables(published.values()),
            buffer,
            compression="zstd",
            compression_level=9,
            row_group_size=64 * 1024,
            write_page_index=True,
        )
        obstore.put(store, "queue_hour.parquet", buffer.getvalue())

    narrow = [{day: _narrow_types(rows) for day, rows in days.items()} for days in steps]
    publications = [_measure(folder, lambda days=days: publish(days)) for days in narrow]
    _check(pq.read_table(folder / "queue_hour.parquet"), final)
    return publications


def _measure(folder: Path, publish: Callable[[], object]) -> _Publication:
    before = _file_states(folder)
    started = time.perf_counter()
    publish()
    seconds = time.perf_counter() - started
    written = [path for path, state in _file_states(folder).items() if before.get(path) != state]
    return _Publication(
        uploads=sum(path.suffix == ".parquet" for path in written),
        kilobytes=sum(path.stat().st_size for path in written) / 1000,
        seconds=seconds,
    )


def _file_states(folder: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".parquet", ".json")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def _check(published: pa.Table, days: Days) -> None:
    for name in ("offered", "handle_ms"):
        found = _total([published], name)
        expected = _total(days.values(), name)
        if found != expected:
            raise BenchmarkError(f"published {name} add up to {found}; expected {expected}")


def _total(tables: Iterable[pa.Table], name: str) -> int:
    return sum(round(value) for table in tables for value in table[name].to_pylist() if value is not None)


def _day(number: int) -> Interval:
    start = _FIRST_DAY + timedelta(days=number)
    return Interval(start, start + timedelta(days=1))


def _rows(day: Interval, seed: int) -> pa.Table:
    """Return rows of every hour, medium and queue, in the order of the tier."""
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
    schema = to_arrow_schema(
        (
            *(Column(to_snake_case(name), ColumnKind.dimension, nullable=True) for name in _REPORT.group_by),
            *(Column(to_snake_case(name), ColumnKind.integer) for name in _REPORT.metrics),
        )
    )
    return pa.Table.from_arrays([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)

"""Replay of measured volumes: exactly as many conversations in each slot as a CSV file says.

A file has the columns `start,calls`: local time without offset, and a whole number. When clocks change, a slot that local time
skips is replayed at the instant of its old offset, so that nothing is lost. A slot that occurs twice is split over both
occurrences if the file lists it once, and is the first and then the second occurrence if the file lists it twice.
"""

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TextIO
from zoneinfo import ZoneInfo

import numpy as np

from cache_pipeline.simulator.calls import Calls, Generate, generate_outcomes
from cache_pipeline.simulator.errors import SimulatorError
from cache_pipeline.simulator.intervals import to_ms
from cache_pipeline.simulator.settings import SimulatorSettings

_DAY = timedelta(days=1)
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)
_HEADER = ["start", "calls"]


@dataclass(frozen=True)
class Row:
    """One line of the file: a local start without offset, and its calls."""

    line: int
    start: datetime
    calls: int


@dataclass(frozen=True)
class Slot:
    """Half-open interval `[begin_ms, end_ms)` in which exactly `calls` conversations are offered."""

    begin_ms: int
    end_ms: int
    calls: int


@dataclass(frozen=True)
class Arrivals:
    """The slots of a file, by the local day on which they begin."""

    zone: ZoneInfo
    slot_length: timedelta
    days: Mapping[date, tuple[Slot, ...]]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _row(cells: list[str], path: Path, line: int) -> Row:
    if len(cells) != len(_HEADER):
        msg = f"{path}, line {line}: {len(cells)} columns; expected two: 'start,calls'"
        raise SimulatorError(msg)
    try:
        start = datetime.fromisoformat(cells[0].strip())
    except ValueError:
        msg = f"{path}, line {line}: '{cells[0]}' is not an ISO 8601 time; write it like 2024-03-01T08:30:00"
        raise SimulatorError(msg) from None
    if start.tzinfo is not None:
        msg = f"{path}, line {line}: '{cells[0]}' has an offset; write local time and set its zone in arrivals_zone"
        raise SimulatorError(msg)
    digits = cells[1].strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8):
        msg = f"{path}, line {line}: calls is '{cells[1]}'; write a whole number of calls, 0 or more"
        raise SimulatorError(msg)
    return Row(line, start, int(digits))


def _rows(path: Path) -> Iterator[Row]:
    try:
        with _open(path) as file:
            lines = csv.reader(file)
            if [cell.strip() for cell in next(lines, [])] != _HEADER:
                msg = f"{path}, line 1: the columns must be 'start,calls'"
                raise SimulatorError(msg)
            for cells in lines:
                if cells:
                    yield _row(cells, path, lines.line_num)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path}: cannot be read as CSV or .csv.gz: {error}"
        raise SimulatorError(msg) from error


def _slot_length(rows: list[Row], path: Path) -> timedelta:
    """Return the most common distance between neighbouring rows; every row must be on its grid."""
    ordered = sorted({row.start for row in rows})
    gaps = Counter(later - earlier for earlier, later in pairwise(ordered))
    if not gaps:
        msg = f"{path}: the slot length is unknown; list at least two different starts"
        raise SimulatorError(msg)
    length = max(gaps, key=lambda gap: (gaps[gap], -gap))
    if length > _DAY:
        msg = f"{path}: its slots last {length}; the longest allowed slot is a day"
        raise SimulatorError(msg)
    phases = {row: row.start.replace(tzinfo=UTC) - _ORIGIN for row in rows}
    phase = Counter(since % length for since in phases.values()).most_common(1)[0][0]
    for row, since in phases.items():
        if since % length != phase:
            msg = f"{path}, line {row.line}: {row.start.isoformat()} is not on the file's grid of {length}"
            raise SimulatorError(msg)
    return length


def _occurrences(start: datetime, zone: ZoneInfo) -> tuple[int, int]:
    """Return both instants of the local time `start`: equal except at a DST change, and reversed if the time is skipped."""
    return to_ms(start.replace(tzinfo=zone)), to_ms(start.replace(tzinfo=zone, fold=1))


def _slots(rows: list[Row], zone: ZoneInfo, length: timedelta, path: Path) -> Iterator[Slot]:
    """Yield the slots of the rows that share one local start."""
    start = rows[0].start
    first, second = _occurrences(start, zone)
    length_ms = length // timedelta(milliseconds=1)
    occurs_twice = first < second and length_ms <= second - first
    if len(rows) > (2 if occurs_twice else 1):
        msg = f"{path}, line {rows[-1].line}: {start.isoformat()} is listed twice (first in line {rows[0].line})"
        raise SimulatorError(msg)
    if occurs_twice:
        calls = rows[0].calls
        counts = [row.calls for row in rows] if len(rows) > 1 else [calls - calls // 2, calls // 2]
        for begin, calls in zip((first, second), counts, strict=True):
            yield Slot(begin, begin + length_ms, calls)
    elif first > second:
        yield Slot(first, first + length_ms, rows[0].calls)
    else:
        yield Slot(first, _occurrences(start + length, zone)[0], rows[0].calls)


def _group_by_start(rows: Iterable[Row]) -> dict[datetime, list[Row]]:
    by_start: dict[datetime, list[Row]] = defaultdict(list)
    for row in rows:
        by_start[row.start].append(row)
    return by_start


def read_arrivals(path: Path, zone: ZoneInfo) -> Arrivals:
    """Return the volumes in the file at `path`, whose times are local to `zone`.

    Raises:
        SimulatorError: The file cannot be read; the message names the file and the line.
    """
    rows = list(_rows(path))
    length = _slot_length(rows, path)
    days: dict[date, list[Slot]] = defaultdict(list)
    for start, group in _group_by_start(rows).items():
        days[start.date()].extend(_slots(group, zone, length, path))
    return Arrivals(zone, length, {day: tuple(slots) for day, slots in days.items()})


def replayed_calls(arrivals: Arrivals, settings: SimulatorSettings) -> Generate:
    """Return the generator of the file's days, local to its zone; a day that is not in the file has no calls."""

    def generate(day: date) -> Calls:
        rng = np.random.default_rng([settings.seed, day.toordinal(), 1])
        slots = arrivals.days.get(day, ())
        counts = np.array([slot.calls for slot in slots], dtype=np.int64)
        begins = np.repeat(np.array([slot.begin_ms for slot in slots], dtype=np.int64), counts)
        lengths = np.repeat(np.array([slot.end_ms - slot.begin_ms for slot in slots], dtype=np.int64), counts)
        offered = begins + np.floor(rng.random(len(begins)) * lengths).astype(np.int64)
        return generate_outcomes(rng, np.sort(offered), settings, day)

    return generate

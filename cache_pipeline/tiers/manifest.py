"""The edge tier's table of contents: which immutable files make up each data set, and until when it is complete."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from cache_pipeline.query.interval import Interval, IntervalSet


class DataFile(BaseModel, frozen=True):
    """One immutable Parquet file: one local day of a data set.

    Attributes:
        path: relative to the manifest's folder.
        partition: the local day, ``2026-03-29``.
        sha256: of the file's bytes; an ETag is no checksum.
        covered: the intervals, ``start/end``, whose rows the file holds; one without events has no row.
        provisional_from: start of the first bucket in it that is not final, or None.
    """

    model_config = ConfigDict(extra="forbid")

    path: str
    partition: str
    bytes: int
    rows: int
    sha256: str
    covered: tuple[str, ...]
    provisional_from: datetime | None

    def covers(self) -> IntervalSet:
        """The covered intervals."""
        return IntervalSet(Interval.parse(part) for part in self.covered)


class DataSet(BaseModel, frozen=True):
    """One published report.

    Attributes:
        series: the meaning that the figures were asked under.
        complete_from: with ``complete_through`` the latest unbroken run of final buckets; both None where none is.
        provisional_from: start of the first published bucket that may still change, or None.
    """

    model_config = ConfigDict(extra="forbid")

    series: str
    description: str
    granularity: str
    time_zone: str
    columns: tuple[str, ...]
    complete_from: datetime | None
    complete_through: datetime | None
    provisional_from: datetime | None
    files: tuple[DataFile, ...]

    def file_of(self, partition: str) -> DataFile | None:
        """The file of a local day."""
        return next((file for file in self.files if file.partition == partition), None)


class Manifest(BaseModel, frozen=True):
    """What ``manifest.json`` says."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    generated_at: datetime
    datasets: dict[str, DataSet]

    def merged(self, name: str, dataset: DataSet, files: Iterable[DataFile], now: datetime) -> Manifest:
        """This manifest with some files of one data set put in place of those of the same days.

        A data set of another series is begun anew.
        """
        held = self.datasets.get(name)
        by_day = {file.partition: file for file in held.files} if held and held.series == dataset.series else {}
        by_day.update({file.partition: file for file in files})
        ordered = tuple(by_day[day] for day in sorted(by_day))
        provisional_from = min((file.provisional_from for file in ordered if file.provisional_from), default=None)
        run = _latest_run(ordered, provisional_from)
        updated = dataset.model_copy(
            update={
                "files": ordered,
                "complete_from": run.start if run else None,
                "complete_through": run.end if run else None,
                "provisional_from": provisional_from,
            }
        )
        return Manifest(generated_at=now, datasets={**self.datasets, name: updated})


def _latest_run(files: Iterable[DataFile], provisional_from: datetime | None) -> Interval | None:
    covered = IntervalSet(part for file in files for part in file.covers())
    final = [part for part in covered if provisional_from is None or part.start < provisional_from]
    if not final:
        return None
    return Interval(final[-1].start, min(final[-1].end, provisional_from or final[-1].end))

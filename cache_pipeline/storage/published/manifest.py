"""The edge manifest: which immutable files make up each data set, and until when it is complete."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache_pipeline.errors import CachePipelineError, EdgeStoreError
from cache_pipeline.query.interval import Interval, IntervalSet


class UnreadableManifest(CachePipelineError, ValueError):
    """Not a manifest, or one of a later format; the text says which."""


class DataFile(BaseModel, frozen=True):
    """One immutable Parquet file: a local day of a data set, or a local month that has ended."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Relative to the manifest's folder")
    partition: str = Field(description="The local day, 2026-03-29, or month, 2026-03")
    bytes: int
    rows: int
    row_groups: int = 1
    sha256: str = Field(description="SHA-256 of the file's bytes; an ETag is not a checksum")
    min_interval: datetime | None = Field(default=None, description="Start of the first bucket covered")
    max_interval: datetime | None = Field(default=None, description="End of the last bucket covered")
    covered: tuple[str, ...] = Field(
        description="Intervals (start/end) whose rows the file holds; an interval without events has no rows"
    )
    provisional: tuple[str, ...] = Field(default=(), description="Those intervals whose values may still change")
    provisional_from: datetime | None = Field(
        default=None, description="Start of the first bucket that may still change, or null"
    )

    def covered_intervals(self) -> IntervalSet:
        """Return the covered intervals."""
        return IntervalSet(Interval.parse(part) for part in self.covered)

    def provisional_intervals(self) -> IntervalSet:
        """Return the covered intervals that are not final."""
        if self.provisional_from and not self.provisional:
            # Older files do not list them one by one.
            end = max(part.end for part in self.covered_intervals())
            return self.covered_intervals() & IntervalSet([Interval(self.provisional_from, end)])
        return IntervalSet(Interval.parse(part) for part in self.provisional)


class PublishedMeasure(BaseModel, frozen=True):
    """A measure that the published columns allow: a sum of columns, or one divided by another, of sums over any rows."""

    model_config = ConfigDict(extra="forbid")

    name: str
    label: str = Field(description="Its name for people")
    kind: str = Field(description="count, share (0 to 1), duration (milliseconds) or number")
    description: str
    better: int = Field(description="1: more is better, -1: less is, 0: neither")
    over: dict[str, int] = Field(description="The columns of the sum, each with the factor 1 or -1")
    under: dict[str, int] = Field(description="The same of the sum that it is divided by; empty if it is not")


class DataSet(BaseModel, frozen=True):
    """One published report."""

    model_config = ConfigDict(extra="forbid")

    series: str = Field(description="Id of the series that the rows belong to")
    description: str
    granularity: str = Field(description="Length of one bucket, ISO 8601")
    time_zone: str = Field(description="IANA time zone of buckets, days and months")
    columns: tuple[str, ...]
    dimensions: tuple[str, ...] = Field(default=(), description="Columns that identify the group of a row")
    measures: tuple[PublishedMeasure, ...] = Field(default=(), description="In the order in which they are shown")
    min_cell_count: int | None = Field(
        default=None, description="The metrics of rows with fewer events are withheld (null)"
    )
    event_column: str | None = Field(
        default=None, description="The column that counts those events; null if nothing is withheld"
    )
    complete_from: datetime | None = Field(
        description="With complete_through, the latest unbroken run of final buckets; both null if there is none"
    )
    complete_through: datetime | None
    provisional_from: datetime | None = Field(
        description="Start of the first bucket after complete_through that may still change, or null; earlier ones are listed "
        "by their file"
    )
    files: tuple[DataFile, ...]

    def has_same_shape(self, other: DataSet) -> bool:
        """Return whether files of both may be served together: same series, columns and suppression."""
        shape, others = ((each.series, each.columns, each.min_cell_count, each.event_column) for each in (self, other))
        return shape == others

    def find_overlap(self) -> str | None:
        """Return which files hold the same hours, with the remedy, or None: a reader would count those hours twice."""
        ordered = sorted(
            ((part, file.partition) for file in self.files for part in file.covered_intervals()),
            key=lambda each: each[0].start,
        )
        for (part, partition), (next_part, next_partition) in pairwise(ordered):
            if both := part.intersection(next_part):
                return (
                    f"its files of {partition} and {next_partition} both hold {both}: publish the data set again with "
                    "cache-pipeline edge publish"
                )
        return None

    def require_disjoint_files(self, name: str) -> None:
        """Refuse files that hold the same hours.

        Args:
            name: The data set's name, for the message.

        Raises:
            EdgeStoreError: Two files do.
        """
        if overlap := self.find_overlap():
            raise EdgeStoreError(f"{name}: {overlap}")


class Manifest(BaseModel, frozen=True):
    """The content of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid", title="cache_pipeline edge manifest")

    format: Literal[1] = 1
    generated_at: datetime
    sequence: int = Field(default=0, description="Number of changes; never decreases, whatever the clocks say")
    datasets: dict[str, DataSet]
    collecting: tuple[str, ...] = Field(
        default=(), description="Files that are being deleted; a publisher must not rely on them"
    )

    @classmethod
    def parse(cls, body: bytes) -> Manifest:
        """Parse the file.

        Raises:
            UnreadableManifest: It is not a manifest, or one of a later format; the message says which.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            mistakes = error.errors(include_url=False, include_context=False)
            later = [found["input"] for found in mistakes if found["loc"] == ("format",)]
            first = ".".join(str(part) for part in mistakes[0]["loc"]) or "the whole file"
            raise UnreadableManifest(
                f"its format is {later[0]}, and this version reads format 1 only"
                if later
                else f"{first[:80]}: {mistakes[0]['msg'][:160]}"
            ) from error

    def merge_files(
        self, name: str, dataset: DataSet, files: Iterable[DataFile], now: datetime, absorbed: Collection[str] = ()
    ) -> Manifest:
        """Return this manifest with some files of one data set in place of those of the same partitions.

        If the data set has another shape than before, its former files are dropped.

        Args:
            name: The data set's name.
            dataset: Its description; files and completeness are computed here.
            files: The new files.
            now: The current time.
            absorbed: Partitions whose rows went into the new files.

        Raises:
            EdgeStoreError: Two files would hold the same hours.
        """
        current = self.datasets.get(name)
        by_partition = (
            {file.partition: file for file in current.files} if current and current.has_same_shape(dataset) else {}
        )
        for partition in absorbed:
            by_partition.pop(partition, None)
        by_partition.update({file.partition: file for file in files})
        ordered = tuple(by_partition[partition] for partition in sorted(by_partition))
        provisional = IntervalSet(part for file in ordered for part in file.provisional_intervals())
        run = _latest_run(ordered, provisional)
        # An old bucket that may still change does not call the later ones in question: its file lists it.
        provisional_from = next((part.start for part in provisional if run is None or part.start >= run.end), None)
        updated = dataset.model_copy(
            update={
                "files": ordered,
                "complete_from": run.start if run else None,
                "complete_through": run.end if run else None,
                "provisional_from": provisional_from,
            }
        )
        updated.require_disjoint_files(name)
        return self.model_copy(update={"generated_at": now, "datasets": {**self.datasets, name: updated}})


def _latest_run(files: Iterable[DataFile], provisional: IntervalSet) -> Interval | None:
    covered = IntervalSet(part for file in files for part in file.covered_intervals())
    final = [*(covered - provisional)]
    return final[-1] if final else None

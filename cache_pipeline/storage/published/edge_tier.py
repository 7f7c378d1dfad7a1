"""Publish and read data sets: files are put first, then a snapshot, and the manifest is swapped last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.measures import label_of
from cache_pipeline.query.publication import event_column, published_report
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names, rows_within
from cache_pipeline.query.series import Series
from cache_pipeline.storage.published.files import (
    PartitionFile,
    Rows,
    build_file,
    partition_files,
    read_verified_rows,
    restrict_rows,
)
from cache_pipeline.storage.published.manifest import DataFile, DataSet, Manifest, PublishedMeasure, UnreadableManifest
from cache_pipeline.storage.published.object_store import EdgeStore
from cache_pipeline.telemetry.spans import span

MANIFEST = "manifest.json"
MAX_SWAP_ATTEMPTS = 40
#: Clocks of publishers and of the store may differ by this much before we treat one as wrong.
_MAX_CLOCK_SKEW = timedelta(minutes=5)
#: An unchanged manifest is written again this often, so that readers see that publishing still works.
_CONFIRM_INTERVAL = timedelta(hours=1)


@dataclass(frozen=True)
class Publication:
    """The result of one publication.

    Attributes:
        snapshot: The id of the manifest's content.
        uploaded: Number of data files that did not exist before; unchanged ones are not uploaded.
        files: The files of the published days, new or not.
        dataset_rows: Number of rows that the whole data set has now.
    """

    snapshot: str
    uploaded: int
    files: tuple[DataFile, ...]
    dataset_rows: int


def snapshot_of(manifest: Manifest) -> tuple[str, bytes]:
    """Return the id and content of a manifest's snapshot, which omits the files that are being deleted."""
    body = _body(manifest.model_copy(update={"collecting": ()}))
    return hashlib.sha256(body).hexdigest()[:16], body


def _body(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=1).encode()


class EdgeTier:
    """Publishes data sets of one tenant under ``v1/<tenant>/`` of a store.

    Attributes:
        store: The store.
        clock: Returns the current time in UTC.
    """

    def __init__(self, url: str, clock: Callable[[], datetime], tenant: str = "default") -> None:
        """Open the store.

        Args:
            url: ``file:///folder``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
            clock: Returns the current time in UTC.
            tenant: The tenant of the data sets.

        Raises:
            EdgeStoreError: The URL is not of this kind, or the folder cannot be written.
        """
        self.clock = clock
        self.store = EdgeStore(url, tenant)
        self._tenant = tenant

    def manifest(self) -> Manifest:
        """Read the current manifest, which is empty if nothing is published.

        Raises:
            EdgeStoreError: It cannot be read or parsed.
        """
        with self.store.translated_errors(f"reading {MANIFEST}"):
            return self.read_manifest()[0]

    def read(self, report: Report, interval: Interval) -> pa.Table:
        """Read the published rows of an interval, and check each file against its SHA-256.

        Raises:
            EdgeStoreError: A file is missing or altered, or the data set was never published.
        """
        dataset = self.manifest().datasets.get(report.name)
        if dataset is None:
            raise EdgeStoreError(f"{report.name} was never published: materialise {report.name}/edge")
        dataset.require_disjoint_files(report.name)
        requested = IntervalSet([interval])
        with self.store.translated_errors(f"reading {report.name}"):
            tables = [self.read_file(file) for file in dataset.files if file.covered_intervals() & requested]
        if not tables:
            raise EdgeStoreError(f"{report.name} has no published file of {interval}: publish that interval")
        return rows_within(pa.concat_tables(tables), interval)

    @span("store edge")
    def publish(
        self, report: Report, rows_by_interval: Rows, provisional: IntervalSet | datetime | None
    ) -> Publication:
        """Publish the rows of some intervals in place of those published before.

        Args:
            report: The report, whose name is that of the data set.
            rows_by_interval: The rows of each interval as `publishable_rows` returns them; a table may be empty.
            provisional: The buckets that are not final, or the start of the first of them if nothing after it is; None if all
                are final.

        Raises:
            EdgeStoreError: The store refused; the manifest then still names the former files.
        """
        with self.store.translated_errors(f"publishing {report.name}"), self.store.publisher_lock():
            for _ in range(MAX_SWAP_ATTEMPTS):
                publication = self._try_publish(report, rows_by_interval, provisional)
                if publication is not None:
                    return publication
        raise EdgeStoreError(
            f"other publishers changed the edge manifest {MAX_SWAP_ATTEMPTS} times: publish {report.name} again"
        )

    def _try_publish(
        self, report: Report, rows_by_interval: Rows, not_final: IntervalSet | datetime | None
    ) -> Publication | None:
        manifest, version = self.read_manifest()
        dataset, published = self._describe(report, rows_by_interval), published_report(report)
        current = manifest.datasets.get(report.name)
        if current is not None and not current.has_same_shape(dataset):
            # Rows of another series, or columns that are no longer allowed, must not be served next to the new ones.
            current = None
        now, provisional = self.clock(), _provisional_parts(rows_by_interval, not_final)
        files: list[DataFile] = []
        uploaded = 0
        absorbed: set[str] = set()
        for target in partition_files(published, rows_by_interval, current, provisional, now):
            file, body = build_file(published, target, provisional, self.read_file)
            file, is_new = self._put_file(file, body, manifest)
            uploaded += is_new
            files.append(file)
            absorbed.update(_absorbed_partitions(target))
        updated = manifest.merge_files(report.name, dataset, files, self._generated_at(manifest, now), absorbed)
        dataset_rows = sum(file.rows for file in updated.datasets[report.name].files)
        if updated.datasets == manifest.datasets and now - manifest.generated_at < _CONFIRM_INTERVAL:
            return Publication(self._put_snapshot(manifest), uploaded, tuple(files), dataset_rows)
        updated = updated.model_copy(update={"sequence": manifest.sequence + 1})
        if not self.swap_manifest(updated, version):
            return None
        return Publication(snapshot_of(updated)[0], uploaded, tuple(files), dataset_rows)

    def _describe(self, report: Report, rows_by_interval: Rows) -> DataSet:
        published = published_report(report)
        empty = next(iter(rows_by_interval.values())).slice(0, 0)
        columns, min_cell_count = restrict_rows(published, empty).schema.names, published.publish.min_cell_count
        return DataSet(
            series=Series(report, self._tenant).id,
            description=report.description,
            granularity=report.granularity,
            time_zone=report.time_zone,
            columns=tuple(columns),
            dimensions=tuple(dimension_names(published)),
            measures=_published_measures(report, columns),
            min_cell_count=min_cell_count,
            # Of all columns, because it need not be published itself.
            event_column=None if min_cell_count is None else event_column(published, empty.schema.names),
            complete_from=None,
            complete_through=None,
            provisional_from=None,
            files=(),
        )

    def _put_file(self, file: DataFile, body: bytes, manifest: Manifest) -> tuple[DataFile, bool]:
        stem, collecting = file.path.removesuffix(".parquet"), set(manifest.collecting)
        # A file that is being deleted is put under another name.
        names = (file.path, *(f"{stem}-{number}.parquet" for number in range(1, len(collecting) + 1)))
        file = file.model_copy(update={"path": next(name for name in names if name not in collecting)})
        return file, self.store.create(file.path, body)

    def _generated_at(self, manifest: Manifest, now: datetime) -> datetime:
        # A publisher whose clock is slow must not make the manifest older. A manifest from the future, by the store's
        # clock, came from a publisher whose clock was fast, so its time is ignored.
        if manifest.generated_at <= now:
            return now
        put = self.store.modified_at(MANIFEST)
        return now if put is None or manifest.generated_at > put + _MAX_CLOCK_SKEW else manifest.generated_at

    def swap_manifest(self, manifest: Manifest, version: str | None) -> bool:
        """Replace the manifest of a version, its snapshot first; return False if it has changed since."""
        self._put_snapshot(manifest)
        return self.store.swap(MANIFEST, _body(manifest), version)

    def _put_snapshot(self, manifest: Manifest) -> str:
        snapshot, body = snapshot_of(manifest)
        self.store.create(f"snapshots/{snapshot}.json", body)
        return snapshot

    def read_file(self, file: DataFile) -> pa.Table:
        """Read the rows of a published file, and check its SHA-256.

        Raises:
            EdgeStoreError: It is missing or altered.
        """
        found = self.store.get(file.path)
        return read_verified_rows(file, found[0] if found else None)

    def read_manifest(self) -> tuple[Manifest, str | None]:
        """Read the manifest and its version, which `swap_manifest` needs.

        Raises:
            EdgeStoreError: It cannot be parsed; in that case it is never overwritten.
        """
        found = self.store.get(MANIFEST)
        if found is None:
            return Manifest(generated_at=self.clock(), datasets={}), None
        try:
            return Manifest.parse(found[0]), found[1]
        except UnreadableManifest as error:
            raise EdgeStoreError(
                f"{MANIFEST} cannot be parsed ({error}): replace it with a snapshot (cache-pipeline edge rollback)"
            ) from error


def _provisional_parts(rows_by_interval: Rows, not_final: IntervalSet | datetime | None) -> IntervalSet:
    if isinstance(not_final, datetime):
        not_final = IntervalSet(
            Interval(max(part.start, not_final), part.end) for part in rows_by_interval if part.end > not_final
        )
    return (not_final or IntervalSet()) & IntervalSet(rows_by_interval)


def _absorbed_partitions(target: PartitionFile) -> set[str]:
    return {file.partition for file in target.current_files} - {target.partition}


def _published_measures(report: Report, columns: Sequence[str]) -> tuple[PublishedMeasure, ...]:
    """Return the measures of a report that some published columns allow."""
    return tuple(
        PublishedMeasure(
            name=name,
            label=label_of(name, measure),
            kind=measure.kind,
            description=measure.description,
            better=measure.better,
            over=dict(measure.over),
            under=dict(measure.under),
        )
        for name, measure in report.measures.items()
        if measure is not None and set(columns).issuperset(measure.columns)
    )

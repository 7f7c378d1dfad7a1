"""Publishing and reading data sets: files first, then a snapshot, and the manifest swapped last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names, rows_within
from cache_pipeline.query.series import Series
from cache_pipeline.storage.published.aggregated_rows import aggregate_for_publishing
from cache_pipeline.storage.published.files import (
    PartitionFile,
    Rows,
    partition_files,
    published_rows,
    read_checked_rows,
    write_files,
)
from cache_pipeline.storage.published.manifest import DataFile, DataSet, Manifest, UnreadableManifest
from cache_pipeline.storage.published.object_store import EdgeStore
from cache_pipeline.telemetry.spans import span

MANIFEST = "manifest.json"
SWAP_ATTEMPTS = 40
#: Clocks of publishers and of the store may differ by this much without anything being made of it.
_SKEW = timedelta(minutes=5)
#: An unchanged manifest is confirmed anew this often, so that readers see that somebody still publishes.
_CONFIRMED_EVERY = timedelta(hours=1)


@dataclass(frozen=True)
class Publication:
    """What one publishing did.

    Attributes:
        snapshot: id of the manifest's content.
        uploaded: data files that were not there before; unchanged ones cost nothing.
        files: the files of the published days, new or not.
    """

    snapshot: str
    uploaded: int
    files: tuple[DataFile, ...]


def snapshot_of(manifest: Manifest) -> tuple[str, bytes]:
    """Id and content of a manifest's snapshot; what is being deleted at the moment is no part of it."""
    body = _body(manifest.model_copy(update={"collecting": ()}))
    return hashlib.sha256(body).hexdigest()[:16], body


def _body(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=1).encode()


class EdgeTier:
    """Publishes data sets of one tenant under ``v1/<tenant>/`` of a store.

    Attributes:
        store: where to.
        clock: the time, in UTC.
    """

    def __init__(self, url: str, clock: Callable[[], datetime], tenant: str = "default") -> None:
        """Open the store.

        Args:
            url: ``file:///folder``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
            clock: the time, in UTC.
            tenant: whose data sets.

        Raises:
            EdgeStoreError: not such a URL, or a folder that cannot be written.
        """
        self.clock = clock
        self.store = EdgeStore(url, tenant)
        self._tenant = tenant

    def manifest(self) -> Manifest:
        """The manifest as it stands, empty where nothing was published.

        Raises:
            EdgeStoreError: it cannot be read, or does not parse.
        """
        with self.store.telling(f"reading {MANIFEST}"):
            return self.read_manifest()[0]

    def read(self, report: Report, interval: Interval) -> pa.Table:
        """Published rows of an interval, each file checked against its sha256.

        Raises:
            EdgeStoreError: a file is missing or altered, or the data set was never published.
        """
        dataset = self.manifest().datasets.get(report.name)
        if dataset is None:
            raise EdgeStoreError(f"{report.name} was never published: materialise edge/{report.name}")
        wanted = IntervalSet([interval])
        with self.store.telling(f"reading {report.name}"):
            tables = [self.read_file(file) for file in dataset.files if file.covers() & wanted]
        if not tables:
            raise EdgeStoreError(f"{report.name} has no published file of {interval}")
        return rows_within(pa.concat_tables(tables), interval)

    @span("store edge")
    def publish(self, report: Report, rows_by_interval: Rows, provisional_from: datetime | None) -> Publication:
        """Put rows of some intervals in place of those published for them before.

        Args:
            report: the data set.
            rows_by_interval: the rows of each interval as `publishable` gives them; maybe none.
            provisional_from: start of the first bucket that is not final, or None.

        Raises:
            EdgeStoreError: the store refused; the manifest then still names the files of before.
        """
        with self.store.telling(f"publishing {report.name}"), self.store.turn():
            for _ in range(SWAP_ATTEMPTS):
                publication = self._try_publish(report, rows_by_interval, provisional_from)
                if publication is not None:
                    return publication
        raise EdgeStoreError(f"edge manifest changed {SWAP_ATTEMPTS} times under {report.name}: publish it again")

    def _try_publish(
        self, report: Report, rows_by_interval: Rows, provisional_from: datetime | None
    ) -> Publication | None:
        manifest, version = self.read_manifest()
        dataset, shown = self._described(report, rows_by_interval), aggregate_for_publishing(report)
        held = manifest.datasets.get(report.name)
        if held is not None and not held.same_shape(dataset):
            # Figures of another meaning, or columns that are no longer allowed, must not stand beside the new ones.
            held = None
        now, provisional = self.clock(), _from(rows_by_interval, provisional_from)
        files: list[DataFile] = []
        uploaded = 0
        absorbed: set[str] = set()
        for target in partition_files(shown, rows_by_interval, held, provisional, now):
            file, body = write_files(shown, target, provisional, self.read_file)
            file, is_new = self._put_file(file, body, manifest)
            uploaded += is_new
            files.append(file)
            absorbed.update(_absorbed(target))
        updated = manifest.merged(report.name, dataset, files, self._generated_at(manifest, now), absorbed)
        if updated.datasets == manifest.datasets and now - manifest.generated_at < _CONFIRMED_EVERY:
            return Publication(self._put_snapshot(manifest), uploaded, tuple(files))
        updated = updated.model_copy(update={"sequence": manifest.sequence + 1})
        if not self.swap_manifest(updated, version):
            return None
        return Publication(snapshot_of(updated)[0], uploaded, tuple(files))

    def _described(self, report: Report, rows_by_interval: Rows) -> DataSet:
        shown = aggregate_for_publishing(report)
        columns = published_rows(shown, next(iter(rows_by_interval.values())).slice(0, 0)).schema.names
        return DataSet(
            series=Series(report, self._tenant).id,
            description=report.description,
            granularity=report.granularity,
            time_zone=report.time_zone,
            columns=tuple(columns),
            dimensions=tuple(dimension_names(shown)),
            min_cell_count=shown.publish.min_cell_count,
            complete_from=None,
            complete_through=None,
            provisional_from=None,
            files=(),
        )

    def _put_file(self, file: DataFile, body: bytes, manifest: Manifest) -> tuple[DataFile, bool]:
        stem, collecting = file.path.removesuffix(".parquet"), set(manifest.collecting)
        # What is being deleted just now is put under another name.
        names = (file.path, *(f"{stem}-{number}.parquet" for number in range(1, len(collecting) + 1)))
        file = file.model_copy(update={"path": next(name for name in names if name not in collecting)})
        return file, self.store.create(file.path, body)

    def _generated_at(self, manifest: Manifest, now: datetime) -> datetime:
        # A publisher whose clock is slow must not make the manifest older; one whose clock was fast, by the store's own
        # account, is not believed.
        if manifest.generated_at <= now:
            return now
        put = self.store.modified(MANIFEST)
        return now if put is None or manifest.generated_at > put + _SKEW else manifest.generated_at

    def swap_manifest(self, manifest: Manifest, version: str | None) -> bool:
        """Put a manifest, its snapshot first, if the one of that version still stands; False when somebody was quicker."""
        self._put_snapshot(manifest)
        return self.store.swap(MANIFEST, _body(manifest), version)

    def _put_snapshot(self, manifest: Manifest) -> str:
        snapshot, body = snapshot_of(manifest)
        self.store.create(f"snapshots/{snapshot}.json", body)
        return snapshot

    def read_file(self, file: DataFile) -> pa.Table:
        """A published file's rows, checked.

        Raises:
            EdgeStoreError: it is missing or altered.
        """
        found = self.store.get(file.path)
        return read_checked_rows(file, found[0] if found else None)

    def read_manifest(self) -> tuple[Manifest, str | None]:
        """The manifest and its version, to be swapped.

        Raises:
            EdgeStoreError: it does not parse; it is never overwritten then.
        """
        found = self.store.get(MANIFEST)
        if found is None:
            return Manifest(generated_at=self.clock(), datasets={}), None
        try:
            return Manifest.parse(found[0]), found[1]
        except UnreadableManifest as error:
            raise EdgeStoreError(
                f"{MANIFEST} does not parse: put a file of snapshots/ in its place (cache-pipeline edge rollback); {error}"
            ) from error


def _from(rows_by_interval: Rows, provisional_from: datetime | None) -> IntervalSet:
    if provisional_from is None:
        return IntervalSet()
    return IntervalSet(
        Interval(max(part.start, provisional_from), part.end)
        for part in rows_by_interval
        if part.end > provisional_from
    )


def _absorbed(target: PartitionFile) -> set[str]:
    return {file.partition for file in target.held} - {target.partition}

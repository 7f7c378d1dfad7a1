"""The edge tier: immutable Parquet files and one small manifest on a static store, for a CDN to serve.

A file is named by its content and never overwritten, for a reader that is half way through an overwritten file mixes
two versions without noticing. Publishing puts files first, then a snapshot, and swaps the manifest last.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, ObjectStore, from_url

from cache_pipeline.query.calendar import Step, pieces
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import in_order, rows_within
from cache_pipeline.query.series import Series
from cache_pipeline.tiers.manifest import DataFile, DataSet, Manifest

_MANIFEST = "manifest.json"
_DAY = Step(days=1)
_IMMUTABLE = "public, max-age=31536000, immutable"
_SHORT_LIVED = "public, max-age=60, stale-while-revalidate=600, stale-if-error=86400"
_SWAP_ATTEMPTS = 20


class EdgeStoreError(RuntimeError):
    """The static store cannot be used; the text says where and how to mend it."""


@dataclass(frozen=True)
class Publication:
    """What one publishing did.

    Attributes:
        snapshot: id of the manifest's content.
        uploaded: data files that were not there before; unchanged ones cost nothing.
        files: the days' files, new or not.
    """

    snapshot: str
    uploaded: int
    files: tuple[DataFile, ...]


def _for_browsers(rows: pa.Table) -> pa.Table:
    # JavaScript reads int64 as BigInt, which cannot be added to a number; float64 is exact to 2**53.
    def narrowed(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_int64(kind):
            return pa.float64()
        return pa.timestamp("ms", tz="UTC") if pa.types.is_timestamp(kind) else kind

    return rows.cast(pa.schema([field.with_type(narrowed(field.type)) for field in rows.schema]))


def _parquet(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        rows, buffer, compression="zstd", compression_level=9, row_group_size=64 * 1024, write_page_index=True
    )
    return buffer.getvalue()


class EdgeTier:
    """Publishes data sets of one tenant under ``v1/<tenant>/`` of a store."""

    def __init__(self, url: str, clock: Callable[[], datetime], tenant: str = "default") -> None:
        """Open the store.

        Args:
            url: ``file:///folder``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
            clock: the time, in UTC.
            tenant: whose data sets.

        Raises:
            EdgeStoreError: not such a URL, or a folder that cannot be written.
        """
        self._clock = clock
        self._tenant = tenant
        self._lock: FileLock | None = None
        try:
            if url.startswith("file://"):
                folder = Path(url.removeprefix("file://")) / "v1" / tenant
                folder.mkdir(parents=True, exist_ok=True)
                self._store: ObjectStore = LocalStore(folder)
                # A folder has no compare-and-swap, so its publishers take turns; the lock lies outside what is served.
                self._lock = FileLock(folder.parent.parent / f".{tenant}.lock")
            else:
                self._store = from_url(f"{url.rstrip('/')}/v1/{tenant}")
        except (BaseError, OSError, ValueError) as error:
            raise EdgeStoreError(
                f"edge store {url} cannot be opened: {error}: check CACHE_PIPELINE_EDGE_URL"
            ) from error

    def manifest(self) -> Manifest:
        """The manifest as it stands, empty where nothing was published."""
        return self._read_manifest()[0]

    def read(self, report: Report, interval: Interval) -> pa.Table:
        """Published rows of an interval, each file checked against its sha256.

        Raises:
            EdgeStoreError: a file is missing or altered, or the data set was never published.
        """
        dataset = self.manifest().datasets.get(report.report)
        if dataset is None:
            raise EdgeStoreError(f"{report.report} was never published: materialise edge/{report.report}")
        wanted = IntervalSet([interval])
        tables = [self._read_file(file) for file in dataset.files if file.covers() & wanted]
        if not tables:
            raise EdgeStoreError(f"{report.report} has no published file of {interval}")
        return rows_within(pa.concat_tables(tables), interval)

    def publish(
        self, report: Report, rows_by_interval: Mapping[Interval, pa.Table], provisional_from: datetime | None
    ) -> Publication:
        """Put rows of some intervals in place of those published for them before.

        Args:
            report: the data set.
            rows_by_interval: the rows of each interval, in the report's schema; maybe none.
            provisional_from: start of the first bucket that is not final, or None.

        Raises:
            EdgeStoreError: the store refused; the manifest then still names the files of before.
        """
        try:
            with self._turn():
                for _ in range(_SWAP_ATTEMPTS):
                    publication = self._try_publish(report, rows_by_interval, provisional_from)
                    if publication is not None:
                        return publication
        except BaseError as error:
            raise EdgeStoreError(f"edge store refused to publish {report.report}: {error}") from error
        raise EdgeStoreError(f"edge manifest changed {_SWAP_ATTEMPTS} times under {report.report}: publish it again")

    @contextmanager
    def _turn(self) -> Generator[None]:
        if self._lock is None:
            yield
        else:
            with self._lock:
                yield

    def _try_publish(
        self, report: Report, rows_by_interval: Mapping[Interval, pa.Table], provisional_from: datetime | None
    ) -> Publication | None:
        manifest, version = self._read_manifest()
        series = Series(report, self._tenant).id
        held = manifest.datasets.get(report.report)
        if held is not None and held.series != series:
            # Figures of another meaning: days of the old and the new must not stand side by side.
            held = None
        uploaded = 0
        files: list[DataFile] = []
        for day, new in _by_local_day(report, rows_by_interval).items():
            file, body = self._day_file(report, day, new, held.file_of(day) if held else None, provisional_from)
            uploaded += self._create(file.path, body, "application/vnd.apache.parquet")
            files.append(file)
        columns = next(iter(rows_by_interval.values())).schema.names
        dataset = DataSet(
            series=series,
            description=report.description,
            granularity=report.granularity,
            time_zone=report.time_zone,
            columns=tuple(columns),
            complete_from=None,
            complete_through=None,
            provisional_from=None,
            files=(),
        )
        updated = manifest.merged(report.report, dataset, files, self._clock())
        if held is not None and updated.datasets == manifest.datasets:
            updated = manifest
        body = updated.model_dump_json(indent=1).encode()
        snapshot = hashlib.sha256(body).hexdigest()[:16]
        self._create(f"snapshots/{snapshot}.json", body, "application/json")
        if updated is not manifest and not self._swap(body, version):
            return None
        return Publication(snapshot, uploaded, tuple(files))

    def _day_file(
        self,
        report: Report,
        day: str,
        new: Mapping[Interval, pa.Table],
        held: DataFile | None,
        provisional_from: datetime | None,
    ) -> tuple[DataFile, bytes]:
        replaced = IntervalSet(new)
        tables = [_for_browsers(table) for table in new.values()]
        kept = held.covers() - replaced if held else IntervalSet()
        if held and kept:
            held_rows = self._read_file(held)
            tables.extend(rows_within(held_rows, part) for part in kept)
        covered = kept | replaced
        rows = in_order(pa.concat_tables(tables))
        body = _parquet(rows)
        digest = hashlib.sha256(body).hexdigest()
        open_from = [provisional_from] if provisional_from and provisional_from < max(p.end for p in replaced) else []
        if held and held.provisional_from:
            open_from.extend(max(p.start, held.provisional_from) for p in kept if p.end > held.provisional_from)
        file = DataFile(
            path=f"data/{report.report}/day={day}/{digest[:16]}.parquet",
            partition=day,
            bytes=len(body),
            rows=rows.num_rows,
            sha256=digest,
            covered=tuple(str(part) for part in covered),
            provisional_from=max(min(open_from), min(p.start for p in covered)) if open_from else None,
        )
        return file, body

    def _read_file(self, file: DataFile) -> pa.Table:
        try:
            body = bytes(obstore.get(self._store, file.path).bytes())
        except FileNotFoundError as error:
            raise EdgeStoreError(f"published file {file.path} is missing: publish its day again") from error
        if hashlib.sha256(body).hexdigest() != file.sha256:
            raise EdgeStoreError(
                f"published file {file.path} was altered: its sha256 is not the manifest's; delete it and publish its day again"
            )
        return pq.read_table(io.BytesIO(body))

    def _read_manifest(self) -> tuple[Manifest, str | None]:
        try:
            found = obstore.get(self._store, _MANIFEST)
        except FileNotFoundError:
            return Manifest(generated_at=self._clock(), datasets={}), None
        try:
            return Manifest.model_validate_json(bytes(found.bytes())), found.meta["e_tag"]
        except ValueError as error:
            raise EdgeStoreError(f"{_MANIFEST} does not parse: put a file of snapshots/ in its place") from error

    def _create(self, path: str, body: bytes, content_type: str) -> bool:
        """Put an immutable file where it is not there yet; True when it was put."""
        try:
            obstore.put(self._store, path, body, mode="create", attributes=self._headers(_IMMUTABLE, content_type))
        except (AlreadyExistsError, FileExistsError):
            return False
        return True

    def _swap(self, body: bytes, version: str | None) -> bool:
        """Put the manifest if it still is the one that was read; False when somebody was quicker."""
        headers = self._headers(_SHORT_LIVED, "application/json")
        try:
            if self._lock is not None:
                obstore.put(self._store, _MANIFEST, body)
            elif version is None:
                obstore.put(self._store, _MANIFEST, body, mode="create", attributes=headers)
            else:
                obstore.put(self._store, _MANIFEST, body, mode={"e_tag": version}, attributes=headers)
        except (AlreadyExistsError, PreconditionError, FileExistsError):
            return False
        return True

    def _headers(self, cache_control: str, content_type: str) -> dict[str, str] | None:
        # Folders have no headers; whoever serves one sets them.
        return None if self._lock else {"Cache-Control": cache_control, "Content-Type": content_type}


def _by_local_day(report: Report, rows_by_interval: Mapping[Interval, pa.Table]) -> dict[str, dict[Interval, pa.Table]]:
    days: dict[str, dict[Interval, pa.Table]] = {}
    for interval, rows in rows_by_interval.items():
        for part in pieces(interval, _DAY, report.zone):
            day = part.start.astimezone(report.zone).date().isoformat()
            days.setdefault(day, {})[part] = rows_within(rows, part)
    return days

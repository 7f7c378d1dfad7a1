"""Maintain the published files: verify them, roll back to a snapshot, delete what is no longer needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.lazy_imports import pa, pq
from cache_pipeline.storage.published.edge_tier import MANIFEST, MAX_SWAP_ATTEMPTS, EdgeTier, snapshot_of
from cache_pipeline.storage.published.manifest import DataFile, DataSet, Manifest, UnreadableManifest

#: Longer than a CDN may serve an old manifest (a day of stale-if-error) plus the longest that a browser tab stays open.
DEFAULT_RETENTION = timedelta(days=7)
DEFAULT_SNAPSHOT_COUNT = 14
_MAX_CLOCK_SKEW = timedelta(minutes=5)
#: A file that a publisher has put but not yet named in the manifest is younger than this.
_MAX_UNNAMED_AGE = timedelta(hours=1)
_CLOCK_PROBE = "gc.txt"
_SNAPSHOT_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Snapshot:
    """A past or current manifest.

    Attributes:
        id: Sixteen hexadecimal digits.
        stored_at: When it was stored, by the store's own clock.
        is_current: Whether it is the manifest now.
        superseded_at: When the next one was stored, and this one was no longer served; None if it is the latest or the manifest.
    """

    id: str
    stored_at: datetime
    is_current: bool
    superseded_at: datetime | None = None


@dataclass(frozen=True)
class GarbageReport:
    """What a garbage collection deleted.

    Attributes:
        files: Paths of the deleted data files.
        snapshots: Ids of the deleted snapshots.
        bytes: Number of bytes freed.
        remaining_snapshots: Number of snapshots that were kept.
    """

    files: tuple[str, ...]
    snapshots: tuple[str, ...]
    bytes: int
    remaining_snapshots: int


def snapshots(edge: EdgeTier) -> list[Snapshot]:
    """List all snapshots, latest first.

    Raises:
        EdgeStoreError: The store refused.
    """
    with edge.store.translated_errors("listing snapshots"):
        found = edge.store.get(MANIFEST)
        try:
            current = snapshot_of(Manifest.parse(found[0]))[0] if found else None
        except UnreadableManifest:
            current = None
        listed = [
            Snapshot(name, item.modified_at, name == current)
            for item in edge.store.list("snapshots")
            if (name := PurePosixPath(item.path).stem)
        ]
    # Folders record times to a few milliseconds. Of snapshots with equal times, the current one is the later.
    ordered = sorted(listed, key=lambda snapshot: (snapshot.stored_at, snapshot.is_current), reverse=True)
    return [
        replace(each, superseded_at=None if each.is_current or later is None else later.stored_at)
        for each, later in zip(ordered, [None, *ordered], strict=False)
    ]


def verify(edge: EdgeTier) -> list[str]:
    """Compare every published file with the manifest.

    Returns:
        One sentence for each problem, with its remedy; empty if there is none.

    Raises:
        EdgeStoreError: The manifest cannot be read.
    """
    problems: list[str] = []
    manifest = edge.manifest()
    with edge.store.translated_errors("verifying"):
        stored_at = edge.store.modified_at(MANIFEST)
        if stored_at is None:
            return [f"nothing is published at {edge.store.url}: run cache-pipeline edge publish"]
        if manifest.generated_at > stored_at + _MAX_CLOCK_SKEW:
            ahead = manifest.generated_at - stored_at
            problems.append(
                f"{MANIFEST} claims a time {ahead} after it was stored, so a publisher's clock is fast: synchronise it with NTP"
            )
        for name, dataset in manifest.datasets.items():
            if overlap := dataset.find_overlap():
                problems.append(f"{name}: {overlap}")
            for file in dataset.files:
                problems.extend(f"{name}: {problem}" for problem in _file_problems(edge, dataset, file))
    return problems


def _file_problems(edge: EdgeTier, dataset: DataSet, file: DataFile) -> Iterable[str]:
    found = edge.store.get(file.path)
    remedy = f"publish {file.partition} again with cache-pipeline edge publish"
    if found is None:
        yield f"{file.path} is missing: {remedy}"
        return
    body = found[0]
    if hashlib.sha256(body).hexdigest() != file.sha256:
        yield f"{file.path} was altered: delete it, then {remedy}"
        return
    try:
        content = pq.ParquetFile(pa.BufferReader(body))
    except pa.ArrowException as error:
        yield f"{file.path} is not a Parquet file ({error}): delete it, then {remedy}"
        return
    if (len(body), content.metadata.num_rows) != (file.bytes, file.rows):
        yield f"{file.path} has {content.metadata.num_rows} rows in {len(body)} bytes, unlike the manifest: {remedy}"
    if tuple(content.schema_arrow.names) != dataset.columns:
        yield f"{file.path} has other columns than the manifest lists: delete it, then {remedy}"


def rollback(edge: EdgeTier, snapshot: str) -> str:
    """Make an earlier snapshot the manifest again, if all its files still exist.

    Returns:
        The snapshot id of the new manifest.

    Raises:
        EdgeStoreError: The snapshot does not exist, or one of its files was deleted.
    """
    with edge.store.translated_errors(f"rolling back to snapshot {snapshot}"), edge.store.publisher_lock():
        target = _read_snapshot(edge, snapshot)
        for _ in range(MAX_SWAP_ATTEMPTS):
            version, sequence, collecting = _read_swap_state(edge, target)
            missing = [
                file.path
                for dataset in target.datasets.values()
                for file in dataset.files
                if file.path in collecting or edge.store.modified_at(file.path) is None
            ]
            if missing:
                raise EdgeStoreError(
                    f"{missing[0]} and {len(missing) - 1} more files of snapshot {snapshot} were deleted: choose a later one from "
                    "cache-pipeline edge ls --snapshots"
                )
            restored = target.model_copy(update={"sequence": sequence + 1, "collecting": tuple(sorted(collecting))})
            if edge.swap_manifest(restored, version):
                return snapshot_of(restored)[0]
    raise EdgeStoreError(f"other publishers changed {MANIFEST} {MAX_SWAP_ATTEMPTS} times: roll back again")


def _read_swap_state(edge: EdgeTier, target: Manifest) -> tuple[str | None, int, set[str]]:
    """Return the current manifest's version, its sequence number, and the files that are being deleted."""
    found = edge.store.get(MANIFEST)
    if found is None:
        return None, target.sequence, set()
    try:
        current = Manifest.parse(found[0])
    except UnreadableManifest:
        # Rolling back is the remedy for a manifest that cannot be parsed.
        return found[1], target.sequence, set()
    return found[1], current.sequence, set(current.collecting)


def _read_snapshot(edge: EdgeTier, snapshot: str) -> Manifest:
    # Anything but an id could be a path to another place.
    found = edge.store.get(f"snapshots/{snapshot}.json") if _SNAPSHOT_ID.fullmatch(snapshot) else None
    if found is None:
        raise EdgeStoreError(f"no snapshot {snapshot[:80]}: choose one from cache-pipeline edge ls --snapshots")
    try:
        return Manifest.parse(found[0])
    except UnreadableManifest as error:
        raise EdgeStoreError(f"snapshot {snapshot} cannot be parsed ({error}): choose another") from error


def collect_garbage(
    edge: EdgeTier,
    keep_for: timedelta = DEFAULT_RETENTION,
    keep_snapshots: int = DEFAULT_SNAPSHOT_COUNT,
    *,
    forget: bool = False,
) -> GarbageReport:
    """Delete old snapshots, and data files that neither the manifest nor a kept snapshot names.

    The files to be deleted are first listed in the manifest by compare-and-swap, so that a publisher that has just produced
    the same content does not rely on the old file. Ages are measured by the store's own clock.

    Args:
        edge: The edge tier.
        keep_for: Younger files are kept in any case, and so are snapshots that were the manifest until more recently.
        keep_snapshots: This many of the latest snapshots are kept, however old they are.
        forget: Keep only what the manifest names, regardless of age: for data that must no longer exist.

    Raises:
        EdgeStoreError: The store refused, or the manifest or a kept snapshot cannot be parsed; then nothing is deleted.
    """
    with edge.store.translated_errors("collecting garbage"), edge.store.publisher_lock():
        for _ in range(MAX_SWAP_ATTEMPTS):
            collected = _try_collect(edge, timedelta(0) if forget else keep_for, 1 if forget else keep_snapshots)
            if collected is not None:
                return collected
    raise EdgeStoreError(f"other publishers changed {MANIFEST} {MAX_SWAP_ATTEMPTS} times: collect garbage again")


def _try_collect(edge: EdgeTier, keep_for: timedelta, keep_snapshots: int) -> GarbageReport | None:
    store = edge.store
    manifest, version = edge.read_manifest()
    if version is None and not manifest.datasets:
        return GarbageReport((), (), 0, 0)
    now, all_snapshots = _read_store_time(edge), snapshots(edge)
    # A snapshot's age begins when it is superseded: readers may have got it until then, and a rollback is about what was live.
    old = {
        each.id
        for each in all_snapshots[keep_snapshots:]
        if each.superseded_at and now - each.superseded_at >= keep_for
    }
    kept = [each.id for each in all_snapshots if each.id not in old]
    named = _named_paths(manifest).union(*(_named_paths(_read_snapshot(edge, each)) for each in kept))
    min_age = max(keep_for, _MAX_UNNAMED_AGE) if keep_for else timedelta(0)
    unnamed = [item for item in store.list("data") if item.path not in named and now - item.modified_at >= min_age]
    paths = tuple(sorted(item.path for item in unnamed))
    if paths and not edge.swap_manifest(manifest.model_copy(update={"collecting": paths}), version):
        return None
    store.delete(f"snapshots/{each}.json" for each in old)
    store.delete(paths)
    _clear_collecting(edge, set(paths))
    return GarbageReport(paths, tuple(sorted(old)), sum(item.bytes for item in unnamed), len(kept))


def _named_paths(manifest: Manifest) -> set[str]:
    return {file.path for dataset in manifest.datasets.values() for file in dataset.files}


def _clear_collecting(edge: EdgeTier, deleted: set[str]) -> None:
    for _ in range(MAX_SWAP_ATTEMPTS):
        manifest, version = edge.read_manifest()
        remaining = tuple(path for path in manifest.collecting if path not in deleted)
        if remaining == manifest.collecting or edge.swap_manifest(
            manifest.model_copy(update={"collecting": remaining}), version
        ):
            return


def _read_store_time(edge: EdgeTier) -> datetime:
    """Read the time by the store's own clock. Ours may be wrong, and files that are needed would be deleted."""
    edge.store.put(_CLOCK_PROBE, b"written by garbage collection to read the store's clock\n")
    found = edge.store.modified_at(_CLOCK_PROBE)
    if found is None:
        raise EdgeStoreError(
            f"{_CLOCK_PROBE} is missing right after it was stored: check that the store keeps its objects"
        )
    return found

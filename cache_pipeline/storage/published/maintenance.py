"""Looking after what was published: verifying it, going back to an earlier snapshot, deleting what nobody needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import pyarrow.parquet as pq
from pyarrow import ArrowException, BufferReader

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.edge_tier import MANIFEST, SWAP_ATTEMPTS, EdgeTier, snapshot_of
from cache_pipeline.storage.published.manifest import DataFile, DataSet, Manifest, UnreadableManifest

#: Longer than an edge may serve an old manifest (a day of stale-if-error) plus the longest open browser tab.
KEEP_FOR = timedelta(days=7)
KEEP_SNAPSHOTS = 14
_SKEW = timedelta(minutes=5)
#: What a publisher has put but not yet named is younger than this.
_IN_FLIGHT = timedelta(hours=1)
_PROBE = "gc.txt"
_SNAPSHOT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Snapshot:
    """One manifest of the past.

    Attributes:
        id: sixteen hexadecimal digits.
        put: when, by the store's own clock.
        current: whether the manifest is this one now.
    """

    id: str
    put: datetime
    current: bool


@dataclass(frozen=True)
class GarbageReport:
    """What a garbage collection deleted.

    Attributes:
        files: paths of data files.
        snapshots: ids.
        bytes: freed.
        kept: snapshots left.
    """

    files: tuple[str, ...]
    snapshots: tuple[str, ...]
    bytes: int
    kept: int


def snapshots(edge: EdgeTier) -> list[Snapshot]:
    """All kept snapshots, the latest first.

    Raises:
        EdgeStoreError: the store refused.
    """
    with edge.store.telling("listing snapshots"):
        found = edge.store.get(MANIFEST)
        try:
            current = snapshot_of(Manifest.parse(found[0]))[0] if found else None
        except UnreadableManifest:
            current = None
        listed = [
            Snapshot(name, item.modified, name == current)
            for item in edge.store.list("snapshots")
            if (name := PurePosixPath(item.path).stem)
        ]
    # Folders keep times of a few milliseconds; of equals the current one is the later.
    return sorted(listed, key=lambda snapshot: (snapshot.put, snapshot.current), reverse=True)


def verify(edge: EdgeTier) -> list[str]:
    """Hold every published file against the manifest.

    Returns:
        One sentence for each problem, with how to mend it; empty when all is well.

    Raises:
        EdgeStoreError: the manifest cannot be read.
    """
    problems: list[str] = []
    manifest = edge.manifest()
    with edge.store.telling("verifying"):
        put = edge.store.modified(MANIFEST)
        if put is None:
            return [f"nothing was published at {edge.store.url}: run cache-pipeline edge publish"]
        if manifest.generated_at > put + _SKEW:
            ahead = manifest.generated_at - put
            problems.append(
                f"{MANIFEST} says it was generated {ahead} after it was put: a publisher's clock runs ahead; set it by NTP"
            )
        for name, dataset in manifest.datasets.items():
            for file in dataset.files:
                problems.extend(f"{name}: {problem}" for problem in _file_problems(edge, dataset, file))
    return problems


def _file_problems(edge: EdgeTier, dataset: DataSet, file: DataFile) -> Iterable[str]:
    found = edge.store.get(file.path)
    mend = f"publish {file.partition} again with cache-pipeline edge publish"
    if found is None:
        yield f"{file.path} is missing: {mend}"
        return
    body = found[0]
    if hashlib.sha256(body).hexdigest() != file.sha256:
        yield f"{file.path} was altered: delete it, then {mend}"
        return
    try:
        content = pq.ParquetFile(BufferReader(body))
    except ArrowException as error:
        yield f"{file.path} is no Parquet ({error}): delete it, then {mend}"
        return
    if (len(body), content.metadata.num_rows) != (file.bytes, file.rows):
        yield f"{file.path} has {content.metadata.num_rows} rows in {len(body)} bytes, and not what the manifest says: {mend}"
    if tuple(content.schema_arrow.names) != dataset.columns:
        yield f"{file.path} has columns that are not on the manifest's list: delete it, then {mend}"


def rollback(edge: EdgeTier, snapshot: str) -> str:
    """Make an earlier snapshot the manifest again, if all its files are still there.

    Returns:
        The id of the manifest that says so.

    Raises:
        EdgeStoreError: no such snapshot, or one of its files is gone.
    """
    with edge.store.telling(f"going back to snapshot {snapshot}"), edge.store.turn():
        wanted = _snapshot(edge, snapshot)
        for _ in range(SWAP_ATTEMPTS):
            version, sequence, collecting = _standing(edge, wanted)
            missing = [
                file.path
                for dataset in wanted.datasets.values()
                for file in dataset.files
                if file.path in collecting or edge.store.modified(file.path) is None
            ]
            if missing:
                raise EdgeStoreError(
                    f"snapshot {snapshot} cannot be gone back to: {missing[0]} and {len(missing) - 1} more of its files are "
                    "gone; choose a later one of cache-pipeline edge ls --snapshots"
                )
            renewed = wanted.model_copy(update={"sequence": sequence + 1, "collecting": tuple(sorted(collecting))})
            if edge.swap_manifest(renewed, version):
                return snapshot_of(renewed)[0]
    raise EdgeStoreError(f"{MANIFEST} changed {SWAP_ATTEMPTS} times meanwhile: roll back again")


def _standing(edge: EdgeTier, wanted: Manifest) -> tuple[str | None, int, set[str]]:
    found = edge.store.get(MANIFEST)
    if found is None:
        return None, wanted.sequence, set()
    try:
        standing = Manifest.parse(found[0])
    except UnreadableManifest:
        # Going back is the way out of a manifest that does not parse.
        return found[1], wanted.sequence, set()
    return found[1], standing.sequence, set(standing.collecting)


def _snapshot(edge: EdgeTier, snapshot: str) -> Manifest:
    # What is no id could be a path to somewhere else.
    found = edge.store.get(f"snapshots/{snapshot}.json") if _SNAPSHOT.fullmatch(snapshot) else None
    if found is None:
        raise EdgeStoreError(f"there is no snapshot {snapshot[:80]}: cache-pipeline edge ls --snapshots names them")
    try:
        return Manifest.parse(found[0])
    except UnreadableManifest as error:
        raise EdgeStoreError(f"snapshot {snapshot} does not parse: choose another; {error}") from error


def collect_garbage(
    edge: EdgeTier, keep_for: timedelta = KEEP_FOR, keep_snapshots: int = KEEP_SNAPSHOTS, *, forget: bool = False
) -> GarbageReport:
    """Delete snapshots that are old, and data files that neither the manifest nor any kept snapshot names.

    What is about to be deleted is first written into the manifest by compare-and-swap, so that a publisher which has just
    made the same content anew learns that it must not count on the old file. Ages are by the store's own clock.

    Args:
        edge: the tier.
        keep_for: younger snapshots and files are kept whatever names them.
        keep_snapshots: as many of the latest are kept however old.
        forget: keep nothing but what the manifest names, at once: for figures that must not exist any longer.

    Raises:
        EdgeStoreError: the store refused, or the manifest or a kept snapshot does not parse; nothing is deleted then.
    """
    with edge.store.telling("collecting garbage"), edge.store.turn():
        for _ in range(SWAP_ATTEMPTS):
            collected = _try_collect(edge, timedelta(0) if forget else keep_for, 1 if forget else keep_snapshots)
            if collected is not None:
                return collected
    raise EdgeStoreError(f"{MANIFEST} changed {SWAP_ATTEMPTS} times meanwhile: collect again")


def _try_collect(edge: EdgeTier, keep_for: timedelta, keep_snapshots: int) -> GarbageReport | None:
    store = edge.store
    manifest, version = edge.read_manifest()
    if version is None and not manifest.datasets:
        return GarbageReport((), (), 0, 0)
    now, all_of_them = _store_time(edge), snapshots(edge)
    old = {one.id for one in all_of_them[keep_snapshots:] if now - one.put >= keep_for and not one.current}
    kept = [one.id for one in all_of_them if one.id not in old]
    named = _named(manifest).union(*(_named(_snapshot(edge, one)) for one in kept))
    age = max(keep_for, _IN_FLIGHT) if keep_for else timedelta(0)
    unnamed = [item for item in store.list("data") if item.path not in named and now - item.modified >= age]
    paths = tuple(sorted(item.path for item in unnamed))
    if paths and not edge.swap_manifest(manifest.model_copy(update={"collecting": paths}), version):
        return None
    store.delete(f"snapshots/{one}.json" for one in old)
    store.delete(paths)
    _unmark(edge, set(paths))
    return GarbageReport(paths, tuple(sorted(old)), sum(item.bytes for item in unnamed), len(kept))


def _named(manifest: Manifest) -> set[str]:
    return {file.path for dataset in manifest.datasets.values() for file in dataset.files}


def _unmark(edge: EdgeTier, deleted: set[str]) -> None:
    for _ in range(SWAP_ATTEMPTS):
        manifest, version = edge.read_manifest()
        left = tuple(path for path in manifest.collecting if path not in deleted)
        if left == manifest.collecting or edge.swap_manifest(manifest.model_copy(update={"collecting": left}), version):
            return


def _store_time(edge: EdgeTier) -> datetime:
    """The time by the store's own clock: ours may be wrong, and would delete what is needed."""
    edge.store.put(_PROBE, b"written by garbage collection to read the store's clock\n")
    found = edge.store.modified(_PROBE)
    if found is None:
        raise EdgeStoreError(f"{_PROBE} was put and is not there: check that the store keeps what is put")
    return found

"""Copy the published files: the newest days of each data set, with a manifest of just those."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.edge_tier import MANIFEST, EdgeTier
from cache_pipeline.storage.published.files import verify_checksum
from cache_pipeline.storage.published.manifest import DataSet
from cache_pipeline.storage.published.page import NAMES


def bundle_files(edge: EdgeTier, newest: timedelta | None = None) -> Mapping[str, bytes]:
    """Return ``manifest.json``, ``names.json`` and the data files by path.

    Args:
        edge: The published files.
        newest: How much of each data set to copy, counted back from its last bucket; by default all of it.

    Raises:
        EdgeStoreError: Nothing is published, or a file is missing or altered.
    """
    manifest = edge.manifest()
    if not manifest.datasets:
        raise EdgeStoreError(f"nothing is published at {edge.store.url}: run cache-pipeline edge publish")
    datasets = {name: _newest(dataset, newest) for name, dataset in manifest.datasets.items()}
    files: dict[str, bytes] = {}
    with edge.store.translated_errors("copying the published files"):
        for dataset in datasets.values():
            for file in dataset.files:
                stored = edge.store.get(file.path)
                files[file.path] = verify_checksum(file, stored[0] if stored else None)
        names = edge.store.get(NAMES)
    files[NAMES] = names[0] if names else b"{}"
    files[MANIFEST] = manifest.model_copy(update={"datasets": datasets}).model_dump_json().encode()
    return files


def _newest(dataset: DataSet, newest: timedelta | None) -> DataSet:
    if newest is None or not dataset.files:
        return dataset
    ends = {file.path: max(part.end for part in file.covered_intervals()) for file in dataset.files}
    since = max(ends.values()) - newest

    return dataset.model_copy(update={"files": tuple(file for file in dataset.files if ends[file.path] > since)})

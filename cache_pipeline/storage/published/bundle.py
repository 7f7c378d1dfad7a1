"""Taking a copy of what is published: the newest days of each data set, with a manifest of just those."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.edge_tier import MANIFEST, EdgeTier
from cache_pipeline.storage.published.files import check_published_rows
from cache_pipeline.storage.published.manifest import DataFile, DataSet
from cache_pipeline.storage.published.page import LABELS


def bundle_files(edge: EdgeTier, newest: timedelta | None = None) -> Mapping[str, bytes]:
    """``manifest.json``, ``labels.json`` and the data files, by path.

    Args:
        edge: what is published.
        newest: how much of each data set, counted back from its last bucket; by default all.

    Raises:
        EdgeStoreError: nothing is published, or a file is missing or altered.
    """
    manifest = edge.manifest()
    if not manifest.datasets:
        raise EdgeStoreError(f"nothing was published at {edge.store.url}: run cache-pipeline edge publish")
    datasets = {name: _newest(dataset, newest) for name, dataset in manifest.datasets.items()}
    found: dict[str, bytes] = {}
    with edge.store.telling("copying what is published"):
        for dataset in datasets.values():
            for file in dataset.files:
                stored = edge.store.get(file.path)
                found[file.path] = check_published_rows(file, stored[0] if stored else None)
        labels = edge.store.get(LABELS)
    found[LABELS] = labels[0] if labels else b"{}"
    found[MANIFEST] = manifest.model_copy(update={"datasets": datasets}).model_dump_json().encode()
    return found


def _newest(dataset: DataSet, newest: timedelta | None) -> DataSet:
    if newest is None or not dataset.files:
        return dataset
    ends = {file.path: max(part.end for part in file.covers()) for file in dataset.files}
    since = max(ends.values()) - newest

    def wanted(file: DataFile) -> bool:
        return ends[file.path] > since

    return dataset.model_copy(update={"files": tuple(filter(wanted, dataset.files))})

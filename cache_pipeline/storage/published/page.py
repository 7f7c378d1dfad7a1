"""Publish the executives' page, the manifest's JSON Schema and the names of ids next to the data."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cache_pipeline.dashboard import published_page
from cache_pipeline.storage.published.manifest import Manifest
from cache_pipeline.storage.published.object_store import EdgeStore

SCHEMA = "manifest.schema.json"
NAMES = "names.json"

#: The names of ids by column: ``{"queue_id": {"6f1c…": "Billing"}}``.
PublishedNames = Mapping[str, Mapping[str, str]]


def publish_page(store: EdgeStore, names: PublishedNames | None = None) -> int:
    """Put the objects that are missing or have changed; the page itself last, after everything that it loads.

    Args:
        store: The store to publish to.
        names: Names to show for ids; None keeps the published ones.

    Returns:
        How many objects were put.

    Raises:
        EdgeStoreError: The store refused.
    """
    with store.translated_errors("publishing the page"), store.publisher_lock():
        put_count = 0
        for path, body in published_page().items():
            if path != "index.html":
                put_count += store.create(path, body)
        put_count += _put_changed(store, SCHEMA, json.dumps(Manifest.model_json_schema(), indent=1).encode() + b"\n")
        if names is not None or store.modified_at(NAMES) is None:
            put_count += _put_changed(
                store, NAMES, json.dumps(names or {}, indent=1, ensure_ascii=False).encode() + b"\n"
            )
        return put_count + _put_changed(store, "index.html", published_page()["index.html"])


def _put_changed(store: EdgeStore, path: str, body: bytes) -> bool:
    found = store.get(path)
    if found and found[0] == body:
        return False
    store.put(path, body)
    return True

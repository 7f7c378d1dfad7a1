"""Publish the executives' page, the manifest's JSON Schema and the labels of dimension values next to the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from cache_pipeline.dashboard import published_page
from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.manifest import Manifest
from cache_pipeline.storage.published.object_store import EdgeStore

SCHEMA = "manifest.schema.json"
LABELS = "labels.json"

#: Labels of dimension values by column: ``{"queue_id": {"6f1c…": "Billing"}}``.
Labels = Mapping[str, Mapping[str, str]]


def publish_page(store: EdgeStore, labels: Labels | None = None) -> int:
    """Put the objects that are missing or have changed; the page itself last, after everything that it loads.

    Args:
        store: The store to publish to.
        labels: Labels to show for ids; None keeps the published ones.

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
        if labels is not None or store.modified_at(LABELS) is None:
            put_count += _put_changed(
                store, LABELS, json.dumps(labels or {}, indent=1, ensure_ascii=False).encode() + b"\n"
            )
        return put_count + _put_changed(store, "index.html", published_page()["index.html"])


def read_labels(path: Path) -> Labels:
    """Read labels of dimension values from a YAML or JSON file.

    Raises:
        EdgeStoreError: The file cannot be read, or has another structure.
    """
    try:
        found: object = yaml.safe_load(path.read_text())
        return TypeAdapter(dict[str, dict[str, str]]).validate_python(found)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EdgeStoreError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise EdgeStoreError(
            f"{path}: {where or 'the whole file'} is not a label: write a column, and below it the labels of its ids: "
            "queue_id: {{6f1c…: Billing}}"
        ) from error


def _put_changed(store: EdgeStore, path: str, body: bytes) -> bool:
    found = store.get(path)
    if found and found[0] == body:
        return False
    store.put(path, body)
    return True

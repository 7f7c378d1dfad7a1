"""Checks the edge store (writable, with safe conditional writes) and the public URL that readers use."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.settings import Settings
from cache_pipeline.storage.published.edge_tier import MANIFEST
from cache_pipeline.storage.published.object_store import EdgeStore, cache_control
from cache_pipeline.storage.published.readback import read_back
from cache_pipeline.upstream.http import httpx

_HTTP_TIMEOUT_SECONDS = 8.0


async def check_store(settings: Settings) -> list[CheckResult]:
    """Write, read, replace and delete one small object that no manifest names."""
    return [await asyncio.to_thread(_try_store, EdgeStore(settings.edge_store_url, settings.tenant))]


def _try_store(store: EdgeStore) -> CheckResult:
    path = f"probes/{uuid.uuid4().hex}.json"
    remedy = "check CACHE_PIPELINE_EDGE_URL and that its credentials may read, write, list and delete below that prefix"
    try:
        with store.translated_errors("trying it"), store.publisher_lock():
            try:
                problem = _find_write_problem(store, path)
            finally:
                with suppress(Exception):
                    store.delete([path])
    except EdgeStoreError as error:
        return CheckResult("edge store", CheckStatus.failed, str(error), remedy)
    if problem:
        return CheckResult(
            "edge store",
            CheckStatus.failed,
            problem,
            "use a store, or an endpoint of it, that supports conditional writes",
        )
    return CheckResult("edge store", CheckStatus.ok, f"{store.url}: written, read, replaced and deleted")


def _find_write_problem(store: EdgeStore, path: str) -> str:
    """Return how the store would lose one of two publishers' work; empty if it would not."""
    first, second = b'{"probe": 1}', b'{"probe": 2}'
    if not store.create(path, first):
        return "creating a new object was refused as if it existed"
    found = store.get(path)
    if found is None or found[0] != first:
        return "an object was not read back as it was written"
    if store.create(path, second):
        return "an existing object was overwritten by a write that must only create"
    if not store.swap(path, second, found[1]):
        return "an unchanged object could not be replaced"
    if not store.url.startswith("file://") and store.swap(path, first, found[1]):
        return "an object was replaced although it had changed since it was read"
    return ""


async def check_public_url(settings: Settings, clock: Callable[[], datetime]) -> list[CheckResult]:
    """Check that the public URL serves the latest manifest, with the headers that readers need."""
    url = settings.edge_public_url
    if not url:
        return []
    edge = open_edge_tier(settings)
    if await asyncio.to_thread(edge.store.get, MANIFEST) is None:
        return [CheckResult("edge readers", CheckStatus.ok, "nothing is published yet")]
    found = await asyncio.to_thread(read_back, edge, url, clock())
    if found.problem:
        detail, _, remedy = found.problem.rpartition(": ")
        return [CheckResult("edge readers", CheckStatus.failed, detail, remedy)]
    if not url.startswith(("http://", "https://")):
        return [CheckResult("edge readers", CheckStatus.ok, f"snapshot {found.served}")]
    async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_SECONDS, trust_env=False) as client:
        headers = (await client.get(f"{url.rstrip('/')}/{MANIFEST}", headers={"Origin": "https://any.example"})).headers
    problems = list(_check_headers(headers))
    return problems or [
        CheckResult(
            "edge readers",
            CheckStatus.ok,
            f"snapshot {found.served}, served with Cache-Control: {headers['Cache-Control']}",
        )
    ]


def _check_headers(headers: Mapping[str, str]) -> Iterator[CheckResult]:
    expected = cache_control(MANIFEST)
    actual = headers.get("Cache-Control", "")
    ages = [part.strip() for part in actual.split(",")]
    if "max-age=60" not in ages:
        yield CheckResult(
            "edge readers",
            CheckStatus.warning,
            f"{MANIFEST} is served with Cache-Control {actual or '(none)'}, so readers may see old figures",
            f"serve it with Cache-Control: {expected}",
        )
    if "json" not in headers.get("Content-Type", ""):
        yield CheckResult(
            "edge readers",
            CheckStatus.warning,
            f"{MANIFEST} is served as {headers.get('Content-Type', '(no type)')}",
            "serve .json as application/json",
        )

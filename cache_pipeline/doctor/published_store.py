"""The edge store and the address that readers use: may be written, swaps one object safely, is served as it must be."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from cache_pipeline.bootstrap import edge_tier
from cache_pipeline.doctor.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.settings import Settings
from cache_pipeline.storage.published.edge_tier import MANIFEST
from cache_pipeline.storage.published.object_store import EdgeStore, cache_control
from cache_pipeline.storage.published.readback import read_back
from cache_pipeline.upstream.http import httpx

_SECONDS = 8.0


async def check_store(settings: Settings) -> list[CheckResult]:
    """Write, read, swap and delete one small object beside the published ones, which nobody is detail of."""
    return [await asyncio.to_thread(_tried, EdgeStore(settings.edge_address, settings.tenant))]


def _tried(store: EdgeStore) -> CheckResult:
    path = f"probes/{uuid.uuid4().hex}.json"
    remedy = "check CACHE_PIPELINE_EDGE_URL and that its credentials may read, write, list and delete below that prefix"
    try:
        with store.telling("trying it"), store.turn():
            try:
                wrong = _swapped_wrongly(store, path)
            finally:
                with suppress(Exception):
                    store.delete([path])
    except EdgeStoreError as error:
        return CheckResult("edge store", CheckStatus.failed, str(error), remedy)
    if wrong:
        return CheckResult(
            "edge store", CheckStatus.failed, wrong, "use a store with conditional writes, or another endpoint of it"
        )
    return CheckResult("edge store", CheckStatus.ok, f"{store.url}: written, read, swapped, deleted")


def _swapped_wrongly(store: EdgeStore, path: str) -> str:
    """What a store does that would lose one of two publishers' work; empty where it does not."""
    first, second = b'{"probe": 1}', b'{"probe": 2}'
    if not store.create(path, first):
        return "a new object was taken for one that is there"
    found = store.get(path)
    if found is None or found[0] != first:
        return "what was written is not what is read"
    if store.create(path, second):
        return "an object that is there was written over, though only a new one may be"
    if not store.swap(path, second, found[1]):
        return "an object that nobody changed could not be swapped"
    if not store.url.startswith("file://") and store.swap(path, first, found[1]):
        return "an object was swapped although it had changed since it was read"
    return ""


async def check_public_url(settings: Settings, clock: Callable[[], datetime]) -> list[CheckResult]:
    """Whether the public URL serves what was published last, with the headers that it needs."""
    url = settings.edge_public_url
    if not url:
        return []
    edge = edge_tier(settings)
    if await asyncio.to_thread(edge.store.get, MANIFEST) is None:
        return [CheckResult("edge readers", CheckStatus.ok, "nothing is published yet")]
    found = await asyncio.to_thread(read_back, edge, url, clock())
    if found.problem:
        detail, _, remedy = found.problem.rpartition(": ")
        return [CheckResult("edge readers", CheckStatus.failed, detail, remedy)]
    if not url.startswith(("http://", "https://")):
        return [CheckResult("edge readers", CheckStatus.ok, f"snapshot {found.served}")]
    async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
        headers = (await client.get(f"{url.rstrip('/')}/{MANIFEST}", headers={"Origin": "https://any.example"})).headers
    wrong = list(_wrong_headers(headers))
    return wrong or [
        CheckResult("edge readers", CheckStatus.ok, f"snapshot {found.served}, kept {headers['Cache-Control']}")
    ]


def _wrong_headers(headers: Mapping[str, str]) -> Iterator[CheckResult]:
    wanted = cache_control(MANIFEST)
    detail = headers.get("Cache-Control", "")
    ages = [part.strip() for part in detail.split(",")]
    if "max-age=60" not in ages:
        yield CheckResult(
            "edge readers",
            CheckStatus.warning,
            f"{MANIFEST} is served with Cache-Control {detail or '(none)'}: readers may see old figures",
            f"serve it with Cache-Control: {wanted}",
        )
    if "json" not in headers.get("Content-Type", ""):
        yield CheckResult(
            "edge readers",
            CheckStatus.warning,
            f"{MANIFEST} is served as {headers.get('Content-Type', '(no type)')}",
            "serve .json as application/json",
        )

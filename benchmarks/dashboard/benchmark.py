"""Time to first view of the executives' page, and bytes on the wire: 400 days of 40 queues, 10 Mbit/s, 40 ms.

Headless Chromium loads the published page from a local server. Chromium's debugging protocol limits bandwidth and latency.
The first view is complete when the tiles and charts of seven days and their comparisons are drawn; `all days`, when the year's are.
Cold runs start with an empty cache and a new process; warm runs open the page again in the same profile.

The peer is duckdb-wasm, which reads the same files from the same server over the same network: its own bundle and one query for the
sums by day and queue of those days; it draws nothing. It is version 1.28, the last whose Parquet reader is built in. Later versions
fetch the reader from the internet at run time, so they cannot be measured offline. npm fetches the peer once into
`benchmarks/results/`; without npm or a network its rows are left out.
"""

import gzip
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from playwright.sync_api import BrowserContext, Page, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.dashboard.centre import publish_centre
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.cli.edge_server import edge_app, serving
from cache_pipeline.storage.published import EdgeTier

_DAYS, _QUEUES = 400, 40
_NETWORK: Mapping[str, Any] = {
    "offline": False,
    "latency": 40,
    "downloadThroughput": 1_250_000,
    "uploadThroughput": 1_250_000,
}
_RUNS = 3
_SETTLE_MS = 1500
_PEER = "duckdb-wasm 1.28"
_PACKAGE = "@duckdb/duckdb-wasm@1.28.0"
_BUNDLER = "esbuild@0.28.2"
_PEER_FOLDER = Path(__file__).parents[1] / "results" / "duckdb-wasm"
_FILES = ("duckdb-eh.wasm", "duckdb-browser-eh.worker.js")
_PAGE = """<!doctype html><meta charset="utf-8"><title>peer</title><script type="module" src="peer.js"></script>"""
_SCRIPT = """
import * as duckdb from '@duckdb/duckdb-wasm'
const manifest = await (await fetch('/v1/default/manifest.json')).json()
const since = new Date(Date.now() - 22 * 86400000).toISOString()
const files = manifest.datasets.queue_day.files.filter(file => file.max_interval > since)
const database = new duckdb.AsyncDuckDB(new duckdb.VoidLogger(), new Worker('duckdb-browser-eh.worker.js'))
await database.instantiate('duckdb-eh.wasm')
const connection = await database.connect()
await Promise.all(files.map(async (file, index) => {
  const body = await (await fetch(`/v1/default/${file.path}`)).arrayBuffer()
  await database.registerFileBuffer(`${index}.parquet`, new Uint8Array(body))
}))
const names = files.map((_, index) => `'${index}.parquet'`).join(',')
const rows = await connection.query(`SELECT interval_start, queue_id, sum(offered), sum(answered), sum(abandoned),
  sum(answered_within_target), sum(wait_ms), sum(handle_ms) FROM read_parquet([${names}]) GROUP BY ALL`)
document.documentElement.dataset.ready = rows.numRows
"""


class _ByteCounter:
    """An ASGI application that counts the bytes it sends, because browsers do not report what their workers fetch."""

    def __init__(self, app: ASGIApp) -> None:
        self._make_app = app
        self.bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and count the bytes of the body."""

        async def send_and_count(message: Message) -> None:
            self.bytes += len(message.get("body", b""))
            await send(message)

        await self._make_app(scope, receive, send_and_count)


@dataclass(frozen=True)
class _PageLoad:
    """The measurement of one page load."""

    seconds: float
    kilobytes: float


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Chromium is not installed, or the page does not load.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise BenchmarkError("Chromium is not installed, and the page is measured in it")
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        progress("publishing 400 days of 40 queues")
        today = now.astimezone(ZoneInfo("Europe/Berlin")).date()
        publish_centre(EdgeTier(f"file://{folder}", lambda: now), today, days=_DAYS, queues=_QUEUES)
        peer = _ensure_peer(progress)
        counter = _ByteCounter(_make_app(Path(folder)))
        with serving(counter) as url:
            ours: dict[str, list[_PageLoad]] = {}
            theirs: dict[str, list[_PageLoad]] = {}
            for run in range(_RUNS):
                progress(f"run {run + 1} of {_RUNS}")
                _load_cold_and_warm(chromium, counter, f"{url}/v1/default/#dataset=queue_day", ours, "first view")
                if peer:
                    _load_cold_and_warm(chromium, counter, f"{url}/peer/index.html", theirs, "first view")
                _load_cold_and_warm(
                    chromium, counter, f"{url}/v1/default/#dataset=queue_day&days=364", ours, "all days"
                )
    return Result("dashboard", tuple(row for what in ours for row in _make_rows(what, ours, theirs)))


def _make_rows(what: str, ours: Mapping[str, list[_PageLoad]], theirs: Mapping[str, list[_PageLoad]]) -> list[Row]:
    peers = theirs.get(what, [])

    def median(views: list[_PageLoad], of: str) -> float:
        return statistics.median(getattr(view, of) for view in views)

    target = Target("ours", "<=", 0.5) if what == "first view, cold" else None
    seconds = {_PEER: median(peers, "seconds")} if peers else {}
    kilobytes = {_PEER: median(peers, "kilobytes")} if peers else {}
    return [
        Row(what, round(median(ours[what], "seconds"), 3), "s", seconds, target=target),
        Row(what, round(median(ours[what], "kilobytes"), 1), "KB", kilobytes),
    ]


def _load_cold_and_warm(
    chromium: str, counter: _ByteCounter, url: str, views: dict[str, list[_PageLoad]], what: str
) -> None:
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], headless=True
        )
        # Let the new browser finish its own start; users' browsers are open already.
        blank = context.new_page()
        blank.wait_for_timeout(_SETTLE_MS)
        for state in ("cold", "warm"):
            views.setdefault(f"{what}, {state}", []).append(_load_page(context, counter, url))
        context.close()


def _load_page(context: BrowserContext, counter: _ByteCounter, url: str) -> _PageLoad:
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", dict(_NETWORK))
    before = counter.bytes
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    seconds = _wait_until_drawn(page, started)
    page.wait_for_timeout(200)
    page.close()
    return _PageLoad(seconds, (counter.bytes - before) / 1000)


def _wait_until_drawn(page: Page, started: float) -> float:
    try:
        page.wait_for_selector("html[data-ready]", timeout=60_000, state="attached")
    except Exception as error:
        raise BenchmarkError(f"{page.url} did not load: {page.inner_text('body')[:300]}") from error
    return time.perf_counter() - started


def _make_app(folder: Path) -> Starlette:
    """Return our server with the peer's files, compressed beforehand as on a CDN."""

    async def peer(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "index.html":
            return Response(_PAGE, media_type="text/html")
        kinds = {".wasm": "application/wasm", ".js": "text/javascript"}
        headers = {"Content-Encoding": "gzip", "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(
            (_PEER_FOLDER / f"{name}.gz").read_bytes(), media_type=kinds[Path(name).suffix], headers=headers
        )

    return Starlette(routes=[Route("/peer/{name}", peer), Mount("/", edge_app(folder))])


def _ensure_peer(progress: ProgressCallback) -> bool:
    """Return whether the peer's files exist or can be fetched."""
    if all((_PEER_FOLDER / f"{name}.gz").exists() for name in (*_FILES, "peer.js")):
        return True
    npm = shutil.which("npm")
    progress(f"fetching {_PACKAGE}")
    return npm is not None and _fetch(npm)


def _fetch(npm: str) -> bool:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "peer-entry.js").write_text(_SCRIPT)
        (work / "package.json").write_text('{"private": true}')
        bundle = ["peer-entry.js", "--bundle", "--minify", "--format=esm", "--target=es2022", "--outfile=peer.js"]
        for command in (
            [npm, "install", "--silent", "--no-audit", "--no-fund", _PACKAGE, _BUNDLER],
            [str(work / "node_modules/.bin/esbuild"), *bundle, "--log-level=error"],
        ):
            if subprocess.run(command, cwd=work, check=False, capture_output=True).returncode:  # noqa: S603 - npm from PATH
                return False
        _PEER_FOLDER.mkdir(parents=True, exist_ok=True)
        dist = work / "node_modules/@duckdb/duckdb-wasm/dist"
        for file in (*(dist / name for name in _FILES), work / "peer.js"):
            (_PEER_FOLDER / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9))
    return True

"""Time to first view of the executives' page, and bytes on the wire: 400 days of 40 queues, 10 Mbit/s, 40 ms.

Headless Chromium loads the published page from this machine's own server over a line that its debugging protocol makes narrow.
First view is when the tiles and charts of seven days stand with their comparisons; `all days` is when the year's figures do.
Cold starts with an empty cache and a new process; warm opens the page again in the same profile.

The peer is duckdb-wasm reading the very files that the page reads, on the same line, from the same server: its own bundle, one
query for the sums by day and queue of those days, nothing drawn. It is duckdb-wasm 1.28, the last whose Parquet reader is
built in: later ones fetch it from a host on the internet when they run, and so cannot be measured, or used, without one.
npm fetches it once into `benchmarks/results/`; without npm or a network its rows are left out.
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
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.cli.edge_server import edge_app, serving
from cache_pipeline.storage.published import EdgeTier

_DAYS, _QUEUES = 400, 40
_LINE: Mapping[str, Any] = {
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
_KEPT = Path(__file__).parents[1] / "results" / "duckdb-wasm"
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
await Promise.all(files.map(async (file, place) => {
  const body = await (await fetch(`/v1/default/${file.path}`)).arrayBuffer()
  await database.registerFileBuffer(`${place}.parquet`, new Uint8Array(body))
}))
const names = files.map((_, place) => `'${place}.parquet'`).join(',')
const rows = await connection.query(`SELECT interval_start, queue_id, sum(offered), sum(answered), sum(abandoned),
  sum(answered_within_target), sum(wait_ms), sum(handle_ms) FROM read_parquet([${names}]) GROUP BY ALL`)
document.documentElement.dataset.ready = rows.numRows
"""


class _Sent:
    """An application whose answers are counted: a browser does not tell of what its workers fetch."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and count the bodies."""

        async def counted(message: Message) -> None:
            self.bytes += len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, counted)


@dataclass(frozen=True)
class _View:
    """One opening of a page."""

    seconds: float
    kilobytes: float


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: there is no Chromium, or the page does not come up.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise BenchmarkError("Chromium is not installed: the page is measured in it")
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        tell("publishing 400 days of 40 queues")
        today = now.astimezone(ZoneInfo("Europe/Berlin")).date()
        publish_centre(EdgeTier(f"file://{folder}", lambda: now), today, days=_DAYS, queues=_QUEUES)
        peer = _has_peer(tell)
        sent = _Sent(_app(Path(folder)))
        with serving(sent) as url:
            ours: dict[str, list[_View]] = {}
            theirs: dict[str, list[_View]] = {}
            for run in range(_RUNS):
                tell(f"run {run + 1} of {_RUNS}")
                _open_twice(chromium, sent, f"{url}/v1/default/#dataset=queue_day", ours, "first view")
                if peer:
                    _open_twice(chromium, sent, f"{url}/peer/index.html", theirs, "first view")
                _open_twice(chromium, sent, f"{url}/v1/default/#dataset=queue_day&days=364", ours, "all days")
    return Result("dashboard", tuple(row for what in ours for row in _told(what, ours, theirs)))


def _told(what: str, ours: Mapping[str, list[_View]], theirs: Mapping[str, list[_View]]) -> list[Row]:
    peers = theirs.get(what, [])

    def median(views: list[_View], of: str) -> float:
        return statistics.median(getattr(view, of) for view in views)

    target = Target("ours", "<=", 1.0) if what == "first view, cold" else None
    seconds = {_PEER: median(peers, "seconds")} if peers else {}
    kilobytes = {_PEER: median(peers, "kilobytes")} if peers else {}
    return [
        Row(what, round(median(ours[what], "seconds"), 3), "s", seconds, target=target),
        Row(what, round(median(ours[what], "kilobytes"), 1), "KB", kilobytes),
    ]


def _open_twice(chromium: str, sent: _Sent, url: str, views: dict[str, list[_View]], what: str) -> None:
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], headless=True
        )
        # A browser that was started this instant is busy with itself; people's browsers are open already.
        blank = context.new_page()
        blank.wait_for_timeout(_SETTLE_MS)
        for state in ("cold", "warm"):
            views.setdefault(f"{what}, {state}", []).append(_opened(context, sent, url))
        context.close()


def _opened(context: BrowserContext, sent: _Sent, url: str) -> _View:
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", dict(_LINE))
    before = sent.bytes
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    seconds = _ready(page, started)
    page.wait_for_timeout(200)
    page.close()
    return _View(seconds, (sent.bytes - before) / 1000)


def _ready(page: Page, started: float) -> float:
    try:
        page.wait_for_selector("html[data-ready]", timeout=60_000, state="attached")
    except Exception as error:
        raise BenchmarkError(f"{page.url} did not come up: {page.inner_text('body')[:300]}") from error
    return time.perf_counter() - started


def _app(folder: Path) -> Starlette:
    """Our server, and the peer's files compressed beforehand, as a CDN would have them."""

    async def peer(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "index.html":
            return Response(_PAGE, media_type="text/html")
        kinds = {".wasm": "application/wasm", ".js": "text/javascript"}
        headers = {"Content-Encoding": "gzip", "Cache-Control": "public, max-age=31536000, immutable"}
        return Response((_KEPT / f"{name}.gz").read_bytes(), media_type=kinds[Path(name).suffix], headers=headers)

    return Starlette(routes=[Route("/peer/{name}", peer), Mount("/", edge_app(folder))])


def _has_peer(tell: Tell) -> bool:
    """Whether the peer's files are there, or can be fetched."""
    if all((_KEPT / f"{name}.gz").exists() for name in (*_FILES, "peer.js")):
        return True
    npm = shutil.which("npm")
    tell(f"fetching {_PACKAGE}")
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
            if subprocess.run(command, cwd=work, check=False, capture_output=True).returncode:  # noqa: S603 - npm of this machine
                return False
        _KEPT.mkdir(parents=True, exist_ok=True)
        dist = work / "node_modules/@duckdb/duckdb-wasm/dist"
        for file in (*(dist / name for name in _FILES), work / "peer.js"):
            (_KEPT / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9))
    return True

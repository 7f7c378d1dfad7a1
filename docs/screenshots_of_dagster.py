"""Take the screenshots docs/images/dagster-*.png of the system that ``make dev`` starts.

Run it as ``python -m docs.screenshots_of_dagster``; it needs Chromium and takes a few minutes. The system runs in a temporary
folder. With the URL of a running UI as argument, the screenshots are taken of that UI.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

_PROJECT = Path(__file__).parents[1]
_IMAGES = Path(__file__).parent / "images"
_DAYS = 12
_START_SECONDS = 1200
_PAGE_MILLISECONDS = 60_000.0
_WIDTH = 1400


@dataclass(frozen=True)
class _Screenshot:
    """One screenshot of a page of the UI.

    Attributes:
        path: Path and query of the page.
        texts: Texts that are visible once the page is drawn.
        height: Height of the screenshot.
        click: Text to click first.
        top: Heading at which the screenshot begins.
    """

    path: str
    texts: tuple[str, ...]
    height: int
    click: str | None = None
    top: str | None = None


def _screenshots(day: date) -> dict[str, _Screenshot]:
    return {
        "dagster-graph": _Screenshot(
            "/locations/cache_pipeline/asset-groups/queue_interval/lineage", ("filled", "3 / 3 Passed"), 760
        ),
        "dagster-partition": _Screenshot(
            f"/assets/queue_day/staged?view=partitions&partition={day}", ("watermark lag (s)", "Materialized ("), 1200
        ),
        "dagster-plots": _Screenshot(
            "/assets/queue_interval/staged", ("truncated chunks", "seconds"), 900, click="Plots", top="Metadata"
        ),
        "dagster-complete": _Screenshot(
            "/assets/queue_interval/staged?view=checks&checkDetail=completeness", ("Latest execution", "truncated"), 900
        ),
    }


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _run_dev(folder: Path, port: int) -> Generator[None]:
    """Run ``cache-pipeline dev`` over simulated figures of the last days until the block ends."""
    shutil.copytree(_PROJECT / "reports", folder / "reports")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(_PROJECT / name, folder)
    today = datetime.now(UTC).date()
    days = ["--from", str(today - timedelta(days=_DAYS)), "--to", str(today)]
    command = [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", "dev", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    environment["PYTHONPATH"] = str(_PROJECT)
    with subprocess.Popen(  # noqa: S603
        [*command, "--api-port", str(_free_port()), *days], cwd=folder, env=environment, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def _wait_until_up(port: int) -> None:
    """Wait until the UI answers, which is after the demo has run."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/server_info").status_code == 200:
                return
        time.sleep(1)
    sys.exit(f"the UI did not come up within {_START_SECONDS} s")


def _take(page: Page, base: str, name: str, screenshot: _Screenshot) -> None:
    page.set_viewport_size({"width": _WIDTH, "height": screenshot.height})
    page.goto(base + screenshot.path)
    if screenshot.click:
        page.get_by_text(screenshot.click, exact=True).first.click()
    for text in screenshot.texts:
        page.get_by_text(text).first.wait_for(timeout=_PAGE_MILLISECONDS)
    page.wait_for_function("!document.body.innerText.includes('Loading')", timeout=_PAGE_MILLISECONDS)
    clip = None
    if screenshot.top:
        # The page scrolls inside the window, so make the window high enough to show all of it.
        page.set_viewport_size({"width": _WIDTH, "height": 3 * screenshot.height})
        box = page.get_by_text(screenshot.top, exact=True).first.bounding_box()
        if box is None:
            sys.exit(f"{name}: {screenshot.top} is not on the page")
        clip = {"x": box["x"] - 30, "y": box["y"] - 20, "width": 810, "height": screenshot.height}
    # Charts are animated.
    page.wait_for_timeout(3000)
    page.screenshot(path=str(_IMAGES / f"{name}.png"), clip=clip)


def main(base: str | None) -> None:
    """Take every screenshot, of a new system or of the UI at ``base``."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium is not installed")
    _IMAGES.mkdir(exist_ok=True)
    day = datetime.now(UTC).date() - timedelta(days=4)
    with ExitStack() as stack:
        if base is None:
            port = _free_port()
            stack.enter_context(_run_dev(Path(stack.enter_context(tempfile.TemporaryDirectory())), port))
            _wait_until_up(port)
            base = f"http://127.0.0.1:{port}"
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(locale="en-GB", timezone_id="UTC")
        for name, screenshot in _screenshots(day).items():
            _take(page, base, name, screenshot)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

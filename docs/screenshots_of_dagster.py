"""Take docs/images/dagster-*.png anew, of the system that ``make dev`` starts: ``python -m docs.screenshots_of_dagster``.

Needs Chromium; takes a few minutes. Everything runs in a folder of its own, which is removed. With the address of a UI
that is up, pictures are taken of that.
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
_SECONDS = 1200
_PATIENCE = 60_000.0
_WIDTH = 1400


@dataclass(frozen=True)
class _Picture:
    """One page of the UI.

    Attributes:
        path: its address.
        drawn: texts that are there when it is drawn.
        height: of the picture.
        click: a text to click first.
        top: the heading that the picture begins at.
    """

    path: str
    drawn: tuple[str, ...]
    height: int
    click: str | None = None
    top: str | None = None


def _pictures(day: date) -> dict[str, _Picture]:
    return {
        "dagster-graph": _Picture(
            "/locations/cache_pipeline/asset-groups/queue_interval/lineage", ("filled", "3 / 3 Passed"), 760
        ),
        "dagster-partition": _Picture(
            f"/assets/staged/queue_day?view=partitions&partition={day}", ("watermark lag (s)", "Materialized ("), 1200
        ),
        "dagster-plots": _Picture(
            "/assets/staged/queue_interval", ("chunks asked", "seconds"), 900, click="Plots", top="Metadata"
        ),
        "dagster-complete": _Picture(
            "/assets/staged/queue_interval?view=checks&checkDetail=complete", ("Latest execution", "truncated"), 900
        ),
    }


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _dev(folder: Path, port: int) -> Generator[None]:
    """``cache-pipeline dev`` over made-up figures of the last days, until the block ends."""
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


def _up(port: int) -> None:
    """Wait until the UI answers, which is when the demo has run."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/server_info").status_code == 200:
                return
        time.sleep(1)
    sys.exit(f"the UI did not come up within {_SECONDS} s")


def _take(page: Page, base: str, name: str, picture: _Picture) -> None:
    page.set_viewport_size({"width": _WIDTH, "height": picture.height})
    page.goto(base + picture.path)
    if picture.click:
        page.get_by_text(picture.click, exact=True).first.click()
    for text in picture.drawn:
        page.get_by_text(text).first.wait_for(timeout=_PATIENCE)
    page.wait_for_function("!document.body.innerText.includes('Loading')", timeout=_PATIENCE)
    clip = None
    if picture.top:
        # The page scrolls inside itself, so the window is made long enough to show all of it.
        page.set_viewport_size({"width": _WIDTH, "height": 3 * picture.height})
        box = page.get_by_text(picture.top, exact=True).first.bounding_box()
        if box is None:
            sys.exit(f"{name}: {picture.top} is not on the page")
        clip = {"x": box["x"] - 30, "y": box["y"] - 20, "width": 810, "height": picture.height}
    # Charts are drawn with a movement of their own.
    page.wait_for_timeout(3000)
    page.screenshot(path=str(_IMAGES / f"{name}.png"), clip=clip)


def main(base: str | None) -> None:
    """Take every picture, of a system of its own or of one that runs at ``base``."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium is not installed")
    _IMAGES.mkdir(exist_ok=True)
    day = datetime.now(UTC).date() - timedelta(days=4)
    with ExitStack() as stack:
        if base is None:
            port = _free_port()
            stack.enter_context(_dev(Path(stack.enter_context(tempfile.TemporaryDirectory())), port))
            _up(port)
            base = f"http://127.0.0.1:{port}"
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(locale="en-GB", timezone_id="UTC")
        for name, picture in _pictures(day).items():
            _take(page, base, name, picture)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

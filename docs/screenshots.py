"""Take the screenshots docs/images/dashboard-*.png of the published page.

Run it as ``python -m docs.screenshots`` in the repository's folder; it needs Chromium.
"""

import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from playwright.sync_api import sync_playwright

from benchmarks.dashboard.centre import publish_centre
from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.storage.published import EdgeTier

_IMAGES = Path(__file__).parent / "images"
_NOW = datetime(2026, 11, 24, 9, 40, tzinfo=UTC)
_TODAY = _NOW.astimezone(ZoneInfo("Europe/Berlin")).date()
_SCREENSHOTS = {
    "dashboard-light": ("dataset=queue_hour&days=28", "light", 1180, 1400),
    "dashboard-dark": ("dataset=queue_hour&days=28", "dark", 1180, 1400),
    "dashboard-phone": ("dataset=queue_hour", "light", 390, 1180),
}


def main() -> None:
    """Publish a fictional contact centre and take the screenshots."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium is not installed")
    _IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        publish_centre(EdgeTier(f"file://{folder}", lambda: _NOW), _TODAY, days=70, queues=12, hourly_days=60)
        with serving_edge(Path(folder)) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for name, (fragment, scheme, width, height) in _SCREENSHOTS.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
                )
                page.clock.set_fixed_time(_NOW)
                page.goto(f"{url}/v1/default/#{fragment}")
                page.wait_for_selector("html[data-ready] .plot svg")
                page.screenshot(path=str(_IMAGES / f"{name}.png"))
                page.close()
            browser.close()


if __name__ == "__main__":
    main()

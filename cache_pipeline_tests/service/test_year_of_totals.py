"""A year whose declaration changes twice: the view, the API, the executives' page and the vendor show the same totals."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.async_api import Browser, async_playwright

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.report import Report
from cache_pipeline.service.republish import republish
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline.vendors.declaration_rules import use_vendor_measures
from cache_pipeline_tests.programs import find_program
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import OpenWorld, World

#: The page's longest period, 52 weeks, in local days: two of them have 23 and 25 hours.
YEAR = Interval.parse("2025-01-05T23:00:00Z/2026-01-04T23:00:00Z")
#: The column of each fact of the vendor's truth, and which of the truth's values it is.
COLUMNS = {
    "n_offered": ("offered", "offered"),
    "t_answered_count": ("answered", "answered"),
    "t_answered_sum": ("answered", "answeredMs"),
    "t_abandon_count": ("abandoned", "abandoned"),
    "t_handle_count": ("handle", "handle"),
    "t_handle_sum": ("handle", "handleMs"),
}
METRICS = {"nOffered": ("n_offered",), "tAnswered": ("t_answered_count", "t_answered_sum"), "tAbandon": ("t_abandon_count",),
           "tHandle": ("t_handle_count", "t_handle_sum")}  # fmt: skip
#: The page's own modules sum what is published, as the page itself does.
SUMS = """async ([folder, columns]) => {
  const { readManifest, readFile } = await import(`${folder}/published.js`)
  const { sumRows } = await import(`${folder}/figures.js`)
  const { files, time_zone: zone } = (await readManifest()).datasets.queue_day
  const decoded = await Promise.all(files.map(file => readFile(file, ['interval_start', ...columns])))
  return sumRows(decoded, { zone, columns, first: 0, last: 1e6 }).total
}"""


def report_of(*metrics: str) -> Report:
    return use_vendor_measures(
        declared(
            name="queue_day",
            platform="genesys",
            query_type="conversations",
            granularity="P1D",
            group_by=["queueId"],
            filters={"predicates": [{"dimension": "mediaType", "values": ["voice"]}]},
            metrics=list(metrics),
            volume_metric=None,
            delivery="sync",
            partition="week",
            max_query_interval="P1M",
            start="2025-01-01",
            expected_groups=None,
            tiers=["history", "edge"],
        )
    )


def columns_of(report: Report) -> list[str]:
    return [column for metric in report.metrics for column in METRICS[metric]]


async def vendor_totals(world: World) -> dict[str, float]:
    """Return the simulator's truth, whose facts are not limited by a filter, so that they are grouped by medium."""
    totals: dict[str, float] = {}
    for column, (fact, value) in COLUMNS.items():
        query = {"interval": str(YEAR), "groupBy": "mediaType", "fact": fact}
        rows = (await world.admin.get("/simulator/truth", params=query)).json()["rows"]
        totals[column] = sum(row[value] for row in rows if row["mediaType"] == "voice")
    return totals


def view_totals(world: World, columns: list[str]) -> dict[str, float]:
    sums = ", ".join(f"sum({name})::float8" for name in columns)
    with psycopg.connect(world.settings.required_postgres_url()) as connection:
        row = connection.execute(f"SELECT bool_and(is_final), {sums} FROM reporting.queue_day").fetchone()  # pyright: ignore[reportArgumentType]
    assert row is not None
    assert row[0] is True
    return dict(zip(columns, row[1:], strict=True))


async def api_row(world: World, report: Report) -> dict[str, float]:
    """Return the sums over all queues and weeks."""
    wanted = QueryOverrides(group_by=(), granularity="P1W")
    document = json.loads((await world.service.answer(report, YEAR, overrides=wanted)).body)
    rows = [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]
    return {name: sum(row[name] for row in rows) for name in document["columns"] if not name.startswith("interval")}


async def page_figures(browser: Browser, url: str, columns: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the page's exact sums, and the text of its tiles."""
    page = await browser.new_page(locale="en-GB")
    try:
        # Nothing beyond this machine is asked.
        await page.route(lambda target: urlsplit(target).netloc != urlsplit(url).netloc, lambda route: route.abort())
        await page.goto(f"{url}/v1/default/#dataset=queue_day&days=364")
        await page.wait_for_selector("html[data-ready]")
        script = await page.locator('script[type="module"]').get_attribute("src")
        assert script is not None
        sums = await page.evaluate(SUMS, [f"/v1/default/{Path(script).parent}", columns])
        tiles = {
            await tile.locator("h3").inner_text(): await tile.locator(".value").inner_text()
            for tile in await page.locator("#tiles li").all()
        }
        return sums, tiles
    finally:
        await page.close()


async def fetch(world: World, report: Report) -> None:
    """Fetch the year, and once more after the delay of second looks."""
    for _ in range(2):
        await world.fetch_and_store(YEAR, report)
        world.clock.move(minutes=20)


def tiles_of(totals: Mapping[str, float], report: Report) -> dict[str, str]:
    """Return what the page must show of these totals."""
    found = {"Offered": f"{totals['n_offered']:,.0f}"}
    if "tAnswered" in report.metrics:
        found["Answered"] = f"{totals['t_answered_count']:,.0f}"
    if "tAbandon" in report.metrics:
        found["Abandon rate"] = f"{totals['t_abandon_count'] / totals['n_offered']:.1%}"
    return found


@pytest.mark.timeout(180)
async def test_totals_agree_through_two_changes(open_world: OpenWorld, tmp_path: Path):
    first = report_of("nOffered", "tAnswered")
    added = report_of("nOffered", "tAnswered", "tAbandon")
    removed = report_of("tAbandon", "nOffered", "tHandle")
    chromium = find_program("chromium", "chromium-browser", "google-chrome")
    async with (
        open_world(first, conversations_per_working_day=200, queues=3) as world,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        edge = EdgeTier(f"file://{tmp_path}", world.clock)
        publish_page(edge.store)
        expected = await vendor_totals(world)
        assert expected["n_offered"] > 10_000
        with serving_edge(tmp_path) as url:
            for report in (first, added, removed):
                await asyncio.to_thread(migrate_history, world.settings, {report.name: report})
                await fetch(world, report)
                series = world.service.series(report)
                await asyncio.to_thread(republish, world.service.history, edge, series, world.service.columns(report))
                assert world.service.history.coverage(series).final.covers(YEAR)
                columns = columns_of(report)
                totals = {name: expected[name] for name in columns}
                assert view_totals(world, columns) == totals
                api = await api_row(world, report)
                assert {name: api[name] for name in columns} == totals
                page, tiles = await page_figures(browser, url, columns)
                assert page == totals
                shown = tiles_of(totals, report)
                assert {name: tiles.get(name) for name in shown} == shown
        await browser.close()

"""Geometry of the executives' page in a real browser: labels never overlap, and axes can be read, whatever is published."""

import json
from datetime import timedelta

import pytest

from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline_tests.dashboard.centre import DAILY, NOW, day
from cache_pipeline_tests.dashboard.conftest import OpenPage

pytestmark = pytest.mark.timeout(240)
#: Name of each site: days, queues, and whether Sundays have no calls and every answer is within target.
SITES = {
    "one day": (1, 1, False),
    "a week of 60 queues": (7, 60, False),
    "four weeks without a failure": (28, 1, True),
    "a quarter of 60 queues": (90, 60, False),
    "400 days without a failure": (400, 3, True),
}
WIDTHS = (320, 768, 1440)
#: What is printed is laid out for the paper, less its margins, whatever the screen.
A4_WIDTH = 710
MEASURE = """() => ({
  width: document.documentElement.scrollWidth,
  broken: [...document.querySelectorAll('svg *')].filter(e => [...e.attributes].some(a => /NaN|Infinity|undefined/.test(a.value))).length,
  tiles: [...document.querySelectorAll('.tile')].flatMap(tile => [...tile.querySelectorAll('h3, .value, .change, .day')]).filter(e => e.scrollWidth > e.clientWidth + 1).map(e => `${e.className} ${e.scrollWidth} ${e.clientWidth} ${e.innerText}`),
  charts: [...document.querySelectorAll('.plot svg')].map(svg => {
    const boxes = kind => [...svg.querySelectorAll(kind)].map(text => {
      const { left, right, top, bottom } = text.getBoundingClientRect()
      return { text: text.textContent, left, right, top, bottom }
    })
    const { left, right } = svg.getBoundingClientRect()
    return { left, right, days: boxes('.day-tick'), values: boxes('.value-tick') }
  }),
})"""


def daily_rows(days_ago, queues, is_perfect):
    span = day(days_ago)
    found = []
    for number in range(queues):
        offered = 0 if span.start.weekday() == 6 else 900 + 37 * number + 11 * (days_ago % 5)
        abandoned = 0 if is_perfect else offered * (6 + days_ago % 3) // 100
        answered = offered - abandoned
        found.append(
            {
                "interval_start": span.start,
                "interval_end": span.end,
                "queue_id": f"queue-{number:02}",
                "offered": offered,
                "answered": answered,
                "abandoned": abandoned,
                "answered_within_target": answered if is_perfect else answered * 3 // 4,
                "wait_ms": answered * 20_000,
                "handle_ms": answered * 300_000,
            }
        )
    columns = (
        Column("queue_id", ColumnKind.dimension, nullable=True),
        *(Column(to_snake_case(name), ColumnKind.integer) for name in DAILY.metrics),
    )
    return rows_to_table(found, to_arrow_schema(columns))


@pytest.fixture(scope="module", params=SITES)
def site_url(request, tmp_path_factory):
    days, queues, is_perfect = SITES[request.param]
    folder = tmp_path_factory.mktemp("geometry")
    edge = EdgeTier(f"file://{folder}", lambda: NOW)
    edge.publish(DAILY, {day(back): daily_rows(back, queues, is_perfect) for back in range(1, days + 1)}, None)
    names = {f"queue-{number:02}": f"Customer service team {number} for returns" for number in range(queues)}
    publish_page(edge.store, {"queue_id": names})
    with serving_edge(folder) as base:
        yield f"{base}/v1/default/", next(each for each in (1, 7, 28, 91, 364) if days <= each or each == 364), days


def overlaps(one, other):
    return min(one["right"], other["right"]) > max(one["left"], other["left"]) and min(
        one["bottom"], other["bottom"]
    ) > max(one["top"], other["top"])


def assert_readable(measured, width, media, days):
    assert measured["broken"] == 0
    assert measured["tiles"] == []
    if media != "print":
        assert measured["width"] <= width
    assert measured["charts"]
    for chart in measured["charts"]:
        labels = [*chart["days"], *chart["values"]]
        assert len(chart["days"]) >= min(days, 2)
        values = [tick["text"] for tick in chart["values"]]
        assert len(set(values)) == len(values) >= 2, values
        for number, one in enumerate(labels):
            # Less than a pixel outside is not visible; the browser rounds the widths of text differently under load.
            assert chart["left"] - 1 <= one["left"] < one["right"] <= chart["right"] + 1, (one, chart["right"])
            assert [other for other in labels[number + 1 :] if overlaps(one, other)] == [], one


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_never_overlap(open_page: OpenPage, site_url, width):
    address, period, days = site_url
    page = open_page(
        f"dataset=queue_day&days={period}",
        address=address,
        prepare=lambda page: page.context.unroute_all(),
        viewport={"width": width, "height": 900},
    )
    page.wait_for_selector(".plot svg")
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "light")):
        page.emulate_media(media=media, color_scheme=scheme)
        if media == "print":
            page.set_viewport_size({"width": A4_WIDTH, "height": 1000})
        # Two frames: the charts are drawn again once the new width is known.
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert_readable(page.evaluate(MEASURE), width, media, days)


def test_axis_has_the_digits_it_needs(open_page: OpenPage, url):
    page = open_page("dataset=queue_day")
    module = f"{url}{page.evaluate('document.querySelector(`script[type=module]`).getAttribute(`src`)').rsplit('/', 1)[0]}/format.js"
    texts = page.evaluate(
        "async ([module, axes]) => { const { axisTexts } = await import(module); return axes.map(([marks, kind]) => axisTexts(marks, kind)) }",
        [
            module,
            [
                [[0.06, 0.065, 0.07, 0.075, 0.08], "share"],
                [[0.9, 0.95, 1], "share"],
                [[0.9995, 0.9996, 0.9997], "share"],
                [[0, 500, 1000, 1500], "count"],
                [[1_000_000, 1_250_000, 1_500_000], "count"],
                [[0, 30_000, 60_000], "duration"],
            ],
        ],
    )
    assert texts == [
        ["6.0%", "6.5%", "7.0%", "7.5%", "8.0%"],
        ["90%", "95%", "100%"],
        ["99.95%", "99.96%", "99.97%"],
        ["0", "500", "1k", "1.5k"],
        ["1m", "1.25m", "1.5m"],
        ["0s", "30s", "1:00"],
    ], json.dumps(texts)


def test_missing_comparison_is_explained(open_page: OpenPage):
    page = open_page("dataset=conversation_day")
    assert page.locator(".change").first.inner_text() == (
        "nothing to compare with: the figures begin on Tue 17 Nov 2026"
    )


def test_provisional_is_explained(open_page: OpenPage):
    page = open_page("dataset=queue_hour")
    page.get_by_text("What does provisional mean?").click()
    assert "become final by themselves" in page.locator("#banner").inner_text()
    assert open_page("dataset=queue_day").get_by_text("What does provisional mean?").count() == 0


def test_chosen_queues_are_added_up_and_kept_in_the_url(open_page: OpenPage):
    page = open_page("dataset=queue_day")
    value = page.locator(".tile .value").first
    assert value.inner_text() == f"{7 * 24 * 600:,}"
    page.locator("#only-summary").click()
    page.locator("#only-list").get_by_label("Billing & invoices").check()
    page.locator("#only-list").get_by_label("returns").check()
    page.wait_for_function("() => document.querySelector('#only-summary').textContent === '2 of 3 queues'")
    assert value.inner_text() == f"{7 * 24 * 400:,}"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("#only-summary").inner_text() == "2 of 3 queues"
    assert page.locator("#table tbody tr").count() == 2
    page.locator("#only-summary").click()
    page.locator("#only-list").get_by_role("button", name="All queues").click()
    page.wait_for_function("() => document.querySelector('#only-summary').textContent === 'All 3 queues'")
    assert value.inner_text() == f"{7 * 24 * 600:,}"


def test_chart_has_its_data_behind_it(open_page: OpenPage, tmp_path):
    page = open_page("dataset=queue_day")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download Service level as CSV").click()
    assert downloading.value.suggested_filename == "queue_day_service_level_2026-11-17_2026-11-23.csv"
    downloading.value.save_as(tmp_path / "saved.csv")
    lines = (tmp_path / "saved.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "day,Service level,Week before,provisional"
    assert lines[-1] == "2026-11-23,0.675,0.675,no"
    assert len(lines) == 8
    assert timedelta(days=7) == day(1).end - day(7).start

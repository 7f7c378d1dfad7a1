"""The executives' dashboard in a real browser: correct figures, clear notices, and no request to any other host."""

import csv
import json
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.dashboard.single_file import single_file_page
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.bundle import bundle_files
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline_tests.dashboard.centre import DAILY, NOW, day, rows
from cache_pipeline_tests.dashboard.conftest import OpenPage, PageLog
from cache_pipeline_tests.query.declared import with_changes

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}


def tiles(page: Page) -> dict[str, list[str]]:
    found = {}
    for tile in page.locator("#tiles li").all():
        found[tile.locator("h3").inner_text()] = [
            " ".join(text.split())
            for text in (tile.locator(".value").inner_text(), tile.locator(".change").inner_text())
        ]
    return found


def table(page: Page) -> list[list[str]]:
    return [
        [cell.split("\n")[0].strip() for cell in row.locator("th, td").all_inner_texts()]
        for row in page.locator("#table tbody tr").all()
    ]


def test_tiles_show_the_published_figures(open_page: OpenPage):
    """Three queues with 100, 200 and 300 contacts an hour for seven days, compared with a week at nine tenths of that."""
    page = open_page("dataset=queue_day")
    offered = 7 * 24 * 600
    assert tiles(page) == {
        "Offered": [f"{offered:,}", "+11.1% on the week before"],
        "Answered": [f"{offered * 9 // 10:,}", "+11.1% on the week before"],
        "Abandon rate": ["10.0%", "0.0 pts on the week before"],
        "Service level": ["67.5%", "0.0 pts on the week before"],
        "Average handle time": ["5:00 min", "0.0% on the week before"],
        "Average speed of answer": ["20 s", "0.0% on the week before"],
    }
    assert page.locator("#glance").inner_text() == (
        "17 Nov – Mon 23 Nov 2026 against the week before; 23 Nov against the Monday before"  # noqa: RUF001 - as shown
    )


def test_period_is_compared_with_the_one_before(open_page: OpenPage):
    page = open_page("dataset=queue_day&days=1")
    assert tiles(page)["Offered"] == [f"{24 * 600:,}", "+11.1% on the same weekday"]
    page.select_option("#period", "28")
    page.wait_for_function  # noqa: B018 - would evaluate a string, which the page's policy forbids
    page.locator(".change", has_text="nothing to compare with").first.wait_for()
    assert tiles(page)["Offered"][0] == f"{7 * 24 * 6 * (100 + 90 + 80 + 70):,}"


def test_heat_map_shows_hours_or_weeks(open_page: OpenPage):
    page = open_page("dataset=queue_hour")
    assert page.locator("#hours-heading").inner_text() == "By hour"
    cells = page.locator(".heatmap td.heat").all_inner_texts()
    assert len(cells) == 7 * 24
    assert set(cells) == {"600"}
    assert open_page("dataset=queue_day").locator("#hours-heading").inner_text() == "By week"


def test_queues_are_sorted_and_filtered_by_keyboard(open_page: OpenPage):
    page = open_page("dataset=queue_day")
    assert [row[0] for row in table(page)] == ["returns", "<img src=x onerror=alert(1)>", "Billing & invoices"]
    page.locator("#table button", has_text="Offered").focus()
    page.keyboard.press("Enter")
    assert table(page)[0][0] == "Billing & invoices"
    assert page.locator('th[aria-sort="ascending"]').inner_text().startswith("Offered")
    assert page.evaluate("document.activeElement.dataset.key") == "offered", "the focus stays where it was"
    page.locator("#filter").focus()
    page.keyboard.type("BILL")
    assert [row[:2] for row in table(page)] == [["Billing & invoices", f"{7 * 2400:,}"]]
    page.keyboard.type("x")
    assert "No queue has" in page.locator("#table tbody").inner_text()


def test_chart_supports_arrow_keys_and_a_table(open_page: OpenPage):
    page = open_page("dataset=queue_hour")
    chart = page.locator(".chart", has_text="Contacts").first
    plot = chart.get_by_role("slider")
    plot.focus()
    assert plot.get_attribute("aria-valuetext") == (
        "Tue 24 Nov 2026 (provisional): Answered 2,160, Abandoned 240, Offered, week before 14,400"
    )
    page.keyboard.press("ArrowLeft")
    assert plot.get_attribute("aria-valuetext").startswith("Mon 23 Nov 2026: Answered 12,960, Abandoned 1,440")
    page.keyboard.press("Home")
    assert plot.get_attribute("aria-valuenow") == "0"
    for figure in page.locator("figure").all():
        figure.locator("summary").click()
        figure.locator("table").wait_for()
        assert figure.locator("tbody tr").count() == 8


def test_banner_shows_completeness_and_provisional_days(open_page: OpenPage):
    page = open_page("dataset=queue_hour")
    banner = page.locator("#banner").inner_text()
    assert "Complete until Tue 24 Nov 2026, 00:00 UTC." in banner
    assert "Figures from Tue 24 Nov 2026, 00:00 on are provisional and may still change (hatched)." in banner
    assert "Published Tue 24 Nov 2026, 09:00." in banner
    assert "STALE" not in banner
    assert page.locator("rect.provisional").count() == 2


@pytest.mark.parametrize(("hours", "stale"), [(25, False), (27, True)])
def test_old_figures_are_marked_stale(open_page: OpenPage, hours: int, stale: bool):
    page = open_page("dataset=queue_day", at=NOW + timedelta(hours=hours))
    assert ("STALE" in page.locator("#banner").inner_text()) is stale
    if stale:
        assert "Nothing has been published since Tue 24 Nov 2026, 09:00" in page.locator("#banner").inner_text()


def test_fast_publisher_clock_is_reported(open_page: OpenPage):
    page = open_page("dataset=queue_day", at=NOW - timedelta(hours=3))
    assert "clock runs ahead" in page.locator("#banner").inner_text()


def test_page_requests_no_other_host(open_page: OpenPage, page_log: PageLog, url: str):
    page = open_page("dataset=queue_hour", service_workers="block")
    page.locator("#csv-groups").click()
    assert {target.split("/v1/")[0] for target in page_log.requests if not target.startswith(("data:", "blob:"))} == {
        url.split("/v1/")[0]
    }
    assert page_log.messages == []


@pytest.mark.parametrize(
    ("choice", "options"),
    [
        ("dataset=queue_hour", {"color_scheme": "light"}),
        ("dataset=queue_hour", {"color_scheme": "dark"}),
        ("dataset=queue_day&days=28", PHONE),
    ],
)
def test_axe_finds_no_violation(open_page: OpenPage, choice: str, options: dict):
    page = open_page(choice, bypass_csp=True, **options)
    page.locator("summary").first.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_missing_file_is_reported_by_name(open_page: OpenPage):
    page = open_page(
        "dataset=queue_day",
        ready=False,
        prepare=lambda page: page.route("**/*.parquet", lambda route: route.fulfill(status=404)),
    )
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert re.search(r"data/queue_day/\S+\.parquet cannot be fetched \(HTTP 404\)", alert.inner_text())
    assert not page.locator("#figures").is_visible()


def test_altered_file_is_never_shown(open_page: OpenPage, site: Path):
    body = bytearray(next(site.glob("v1/default/data/queue_day/day=2026-11-20/*.parquet")).read_bytes())
    body[100] ^= 1
    page = open_page(
        "dataset=queue_day",
        ready=False,
        prepare=lambda page: page.route("**/day=2026-11-20/*", lambda route: route.fulfill(body=bytes(body))),
    )
    page.get_by_role("alert").wait_for()
    assert "its sha256 differs" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize(
    ("body", "expected_text"),
    [
        ("{", "manifest.json does not parse"),
        ('{"format": 9, "datasets": {}}', "format that this page does not support"),
        ('{"format": 1, "generated_at": "2026-11-24T09:00:00Z", "datasets": {}}', "Nothing has been published yet"),
    ],
)
def test_unusable_manifest_is_reported(open_page: OpenPage, body: str, expected_text: str):
    page = open_page(
        ready=False, prepare=lambda page: page.route("**/manifest.json", lambda route: route.fulfill(body=body))
    )
    page.get_by_role("alert").wait_for()
    assert expected_text in page.get_by_role("alert").inner_text()


def test_genesys_columns_are_supported(open_page: OpenPage):
    page = open_page("dataset=conversation_day")
    shown = tiles(page)
    assert shown["Offered"] == ["140", "nothing to compare with: the figures begin on Tue 17 Nov 2026"]
    assert shown["Handled"][0] == "140"
    assert shown["Transferred"][0] == "140"
    assert {row[0] for row in table(page)} == {"chat", "voice"}


def test_chosen_data_set_is_kept_in_the_url(open_page: OpenPage):
    page = open_page()
    assert page.locator("#dataset").input_value() == "queue_day", (
        "the default is the data set with the most measures, and the smaller of equals"
    )
    page.select_option("#dataset", "queue_hour")
    page.wait_for_selector('html[data-ready="queue_hour"]')
    assert page.url.endswith("#dataset=queue_hour")
    page.reload()
    page.wait_for_selector('html[data-ready="queue_hour"]')


def test_csv_download_is_sorted_and_exact(open_page: OpenPage, tmp_path: Path):
    page = open_page("dataset=queue_day")
    with page.expect_download() as downloading:
        page.locator("#csv-groups").click()
    assert downloading.value.suggested_filename == "queue_day_queue_id_2026-11-17_2026-11-23.csv"
    downloading.value.save_as(tmp_path / "saved.csv")
    with (tmp_path / "saved.csv").open(encoding="utf-8-sig", newline="") as file:
        saved = list(csv.DictReader(file))
    assert [row["queue_id"] for row in saved] == ["returns", "orders", "billing"]
    assert saved[2]["name"] == "Billing & invoices"
    assert (saved[2]["offered"], saved[2]["abandon_rate"], saved[2]["average_handle_time_ms"]) == (
        str(7 * 2400),
        "0.1",
        "300000",
    )


def test_page_prints_on_one_sheet(open_page: OpenPage):
    page = open_page("dataset=queue_hour")
    printed = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1


def test_phone_needs_no_horizontal_scrolling(open_page: OpenPage):
    page = open_page("dataset=queue_hour", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_suppressed_figures_leave_the_rest_correct(open_page: OpenPage, tmp_path: Path):
    """A queue whose cells are too small shows no figures; totals cover the others."""
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    report = with_changes(DAILY, min_cell_count=25)
    edge.publish(report, {day(back): rows(report, day(back), 10) for back in range(1, 9)}, None)
    publish_page(edge.store)
    with serving_edge(tmp_path) as base:
        page = open_page(
            "dataset=queue_day", address=f"{base}/v1/default/", prepare=lambda page: page.context.unroute_all()
        )
        assert tiles(page)["Offered"][0] == str(7 * 30)
        assert [row[1] for row in table(page)] == ["210", "–", "–"]  # noqa: RUF001 - as shown


def test_single_file_page_makes_no_requests(open_page: OpenPage, site: Path, tmp_path: Path, page_log: PageLog):
    edge = EdgeTier(f"file://{site}", lambda: NOW)
    (tmp_path / "executives.html").write_bytes(single_file_page(bundle_files(edge, timedelta(days=20))))
    page = open_page("dataset=queue_hour", address=(tmp_path / "executives.html").as_uri())
    assert tiles(page)["Offered"][0] == f"{7 * 24 * 600:,}"
    assert page_log.messages == []
    assert not [target for target in page_log.requests if target.startswith("http")]


def test_assets_are_content_addressed(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    assert publish_page(edge.store) > 10
    assert publish_page(edge.store) == 0
    root = tmp_path / "v1/default"
    html = (root / "index.html").read_text()
    linked = re.findall(r'(?:href|src)="(assets/[^"]+)"', html)
    assert len(linked) == 3
    assert all((root / path).is_file() for path in linked)
    # The separate modules are published too, so that other pages can import them.
    assert {"page.js", "published.js", "figures.js"} <= {path.name for path in root.glob("assets/*/*.js")}
    schema = json.loads((root / "manifest.schema.json").read_text())
    assert {"format", "generated_at", "datasets"} <= set(schema["properties"])
    shutil.rmtree(root / "assets")
    assert publish_page(edge.store) > 10

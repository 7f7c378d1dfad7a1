"""What a demo says at its end: requests counted and compared, and one line for each address."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.cli.demo_story import describe_savings, print_addresses
from cache_pipeline.settings import StandaloneSettings

REPORTS = load_reports(StandaloneSettings(reports_dir=Path(__file__).parents[2] / "reports"))
COUNTS = {"requests": 200, "submits": 40, "polls": 60, "results": 40, "sync_queries": 20}


def test_polling_dashboards_are_counted_as_measured():
    chosen = [REPORTS["conversation_hour"], REPORTS["queue_interval"]]
    text = describe_savings(COUNTS, chosen)
    # One request for the synchronous report and 3.5 for the other, every five minutes and as fresh as declared.
    assert "200 requests" in text
    assert f"about {288 * 4.5:,.0f} requests a day, and 10 dashboards {2880 * 4.5:,.0f}" in text
    assert f"about {6 * 1 + 288 * 3.5:,.0f} keep all of them" in text


@pytest.mark.parametrize("counts", [dict.fromkeys(COUNTS, 0)])
def test_second_demo_asks_nothing_and_still_compares(counts):
    assert "these figures took 0 requests" in describe_savings(counts, list(REPORTS.values()))


def test_addresses_are_never_broken():
    address = "http://127.0.0.1:8080/v1/reports/queue_day?interval=2026-11-27/2026-11-28&names=true"
    written = io.StringIO()
    print_addresses(
        [("A query", address, "yesterday with names, in a line that is much longer than it")],
        Path("data/demo/dev.log"),
        Console(file=written, width=60),
    )
    assert address in written.getvalue()

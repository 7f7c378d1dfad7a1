"""What a demo says at its end: requests counted and compared, and one line for each address."""

import io
from pathlib import Path

from rich.console import Console

from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.cli.demo_story import RequestsSpent, describe_savings, print_addresses
from cache_pipeline.settings import StandaloneSettings

REPORTS = load_reports(StandaloneSettings(reports_dir=Path(__file__).parents[2] / "reports"))
CHOSEN = {name: REPORTS[name] for name in ("conversation_hour", "queue_interval")}


def spent(now, earlier):
    """Return what two reports took, of which the second takes 3.5 requests for a query."""
    return {
        "conversation_hour": RequestsSpent(20, 20 if now else 0, 1.0),
        "queue_interval": RequestsSpent(now + earlier, now, 3.5),
    }


def test_polling_dashboards_are_counted_as_measured():
    text = describe_savings(spent(180, 0), CHOSEN)
    # One request for the synchronous report and 3.5 for the other, every five minutes and as fresh as declared.
    assert "these figures took 200 requests, and take none again." in text
    assert f"about {288 * 4.5:,.0f} requests a day, and 10 dashboards {2880 * 4.5:,.0f}" in text
    assert f"about {6 * 1 + 288 * 3.5:,.0f} keep all of them" in text


def test_second_demo_tells_the_requests_of_both_and_compares_alike():
    first, second = describe_savings(spent(180, 0), CHOSEN), describe_savings(spent(0, 180), CHOSEN)
    assert "took 200 requests, all of them in earlier runs: this one found all in the store." in second
    assert first.partition(". ")[2] == second.partition(". ")[2]


def test_demo_of_the_next_day_tells_what_was_new():
    assert "took 200 requests, 30 of them in this run: what was stored before" in describe_savings(
        spent(10, 170), CHOSEN
    )


def test_addresses_are_never_broken():
    address = "http://127.0.0.1:8080/v1/reports/queue_day?interval=2026-11-27/2026-11-28&names=true"
    written = io.StringIO()
    print_addresses(
        [("A query", address, "yesterday with names, in a line that is much longer than it")],
        Path("data/demo/dev.log"),
        Console(file=written, width=60),
    )
    assert address in written.getvalue()

"""Tests of `cache-pipeline demo` as a newcomer runs it."""

import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pytest

from cache_pipeline.edge import read, read_manifest
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.end_to_end.conftest import CommandLine, wait_until_no_processes

pytestmark = [pytest.mark.timeout(300), pytest.mark.system]

TIERS = ("history", "hot", "edge")


def write_arrivals(path: Path, days: Iterable[date]) -> dict[date, int]:
    """Write plausible volumes with quiet nights and one closed day. Return the calls of each day."""
    rows, totals = ["start,calls"], dict[date, int]()
    for number, day in enumerate(days):
        calls = [0 if number == 2 or slot < 70 else (slot * 7 + number) % 23 for slot in range(240)]
        totals[day] = sum(calls)
        start = datetime.combine(day, datetime.min.time())
        rows += [f"{(start + timedelta(minutes=6 * slot)).isoformat()},{count}" for slot, count in enumerate(calls)]
    path.write_text("\n".join(rows) + "\n")
    return totals


def test_demo_of_real_volumes_agrees_in_every_tier(
    project: Path, production_settings: Path, command_line: Callable[..., CommandLine]
):
    days = [date(2026, 3, 28) + timedelta(days=number) for number in range(4)]
    totals = write_arrivals(project / "calls.csv", days)
    options = [
        "--arrivals",
        "calls.csv",
        "--arrivals-zone",
        "Europe/Berlin",
        "--from",
        "2026-03-28",
        "--to",
        "2026-04-01",
    ]
    demo = command_line("demo", *options)
    assert demo.wait(240) == 0, demo.output()
    assert not production_settings.exists()
    assert "CACHE_PIPELINE_POSTGRES_URL" in demo.output(), "it says what it does not use"

    report = json.loads((project / "data" / "demo-report.json").read_text())
    assert report["succeeded"] is True
    assert report["upstream"]["rejected_429"] == 0
    interval = report["reports"]["queue_interval"]
    # 29 March 2026 has 23 hours in Berlin, so 23 hourly partitions.
    assert interval["partitions"] == 24 * 4 - 1
    assert all(check["passed"] for check in interval["checks"])
    assert len(interval["checks"]) == 6
    # The clock skips 02:00 to 03:00 on the 29th; the simulator moves the file's calls of that hour an hour later.
    for day in interval["days"]:
        counted = {day["totals"][source] for source in (*TIERS, "file", "vendor")}
        assert counted == {totals[date.fromisoformat(day["day"])]}
    for day in report["reports"]["conversation_day"]["days"]:
        assert len(set(day["totals"].values())) == 1

    (edge,) = (project / "data").glob("arrivals-*/edge/v1/default")
    closed_day = read(f"file://{edge}", "queue_interval", ["offered"], "2026-03-30/2026-03-31")
    assert pc.sum(closed_day["offered"]).as_py() == totals[date(2026, 3, 30)] == 0
    # What is empty from the last row of the closed day to the first of the next needs a second look, and nothing else; threads of
    # earlier days end on the closed day too. Only a final month becomes one file.
    published = sorted(path.parent.name for path in edge.glob("data/queue_interval/*/*.parquet"))
    assert published == [f"day={day}" for day in days]
    files = read_manifest(f"file://{edge}").datasets["queue_interval"].files
    provisional = IntervalSet(part for file in files for part in file.provisional_intervals())
    assert provisional
    assert not provisional - IntervalSet([Interval.parse("2026-03-29T22:00:00Z/2026-03-31T05:00:00Z")])
    assert (edge / "index.html").exists()
    names = json.loads((edge / "names.json").read_text())["queue_id"]
    assert "Billing" in names.values()
    assert len(names) == 8
    assert "executives.html" in demo.output()


def test_killed_demo_is_finished_by_the_next(project: Path, command_line: Callable[..., CommandLine]):
    """Nothing is fetched twice, no process is left, and the figures are right."""
    # Yesterday has begun and settled everywhere, so that all three backfill the same days, also around a local midnight.
    end = datetime.now(UTC).date() - timedelta(days=1)
    options = ["--from", str(end - timedelta(days=4)), "--to", str(end)]
    first = command_line("demo", *options)
    staged = project / "data" / "demo" / "staged"
    deadline = time.monotonic() + 90
    while len(list(staged.glob("queue_interval/*/*.parquet"))) < 24:
        assert time.monotonic() < deadline, first.output()
        time.sleep(0.1)
    first.kill()
    modified = {path: path.stat().st_mtime_ns for path in staged.rglob("*.parquet")}
    assert wait_until_no_processes(project)

    second = command_line("demo", *options)
    assert second.wait(200) == 0, second.output()
    report = json.loads((project / "data" / "demo-report.json").read_text())
    assert report["succeeded"] is True
    assert {path: path.stat().st_mtime_ns for path in modified} == modified

    third = command_line("demo", *options)
    assert third.wait(200) == 0, third.output()
    report = json.loads((project / "data" / "demo-report.json").read_text())
    upstream = report["upstream"]
    assert [upstream[kind] for kind in ("submits", "sync_queries", "polls", "results")] == [0, 0, 0, 0]
    # Each demo starts with an empty Redis, and reads the account's limits and retention once.
    assert upstream["requests"] <= 3


def test_ctrl_c_stops_every_process(project: Path, command_line: Callable[..., CommandLine]):
    demo = command_line("demo")
    deadline = time.monotonic() + 60
    while "Backfilling" not in demo.output():
        assert time.monotonic() < deadline, demo.output()
        time.sleep(0.1)
    time.sleep(2)
    demo.interrupt()
    assert demo.wait(30) == 130
    assert demo.output().splitlines()[-1] == "cache-pipeline: interrupted; everything it started has been stopped"
    assert wait_until_no_processes(project, seconds=10)

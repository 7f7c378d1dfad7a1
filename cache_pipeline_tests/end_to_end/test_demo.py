"""The main job through the command line, as a newcomer runs it."""

import json
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from cache_pipeline.edge import read
from cache_pipeline_tests.end_to_end.conftest import leftovers_are_gone

pytestmark = [pytest.mark.timeout(300), pytest.mark.serial]

TIERS = ("history", "hot", "edge")


def write_arrivals(path, days):
    """Real-looking volumes: quiet nights, one closed day; returns the calls of each day."""
    rows, totals = ["start,calls"], {}
    for number, day in enumerate(days):
        calls = [0 if number == 2 or slot < 70 else (slot * 7 + number) % 23 for slot in range(240)]
        totals[day] = sum(calls)
        start = datetime.combine(day, datetime.min.time())
        rows += [f"{(start + timedelta(minutes=6 * slot)).isoformat()},{count}" for slot, count in enumerate(calls)]
    path.write_text("\n".join(rows) + "\n")
    return totals


def test_real_volumes_are_the_same_in_every_tier_and_in_the_file(project, command_line):
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
    assert demo.ended(240) == 0, demo.said()

    report = json.loads((project / "data" / "demo-report.json").read_text())
    assert report["succeeded"] is True
    assert report["upstream"]["rejected_429"] == 0
    interval = report["reports"]["queue_interval"]
    # 29 March 2026 has 23 hours in Berlin, and one partition for each.
    assert interval["partitions"] == 24 * 4 - 1
    assert all(check["passed"] for check in interval["checks"])
    assert len(interval["checks"]) == 6
    # The clock skips 02:00 to 03:00 on the 29th, and the file's calls of that hour are played an hour later.
    for day in interval["days"]:
        counted = {day["totals"][source] for source in (*TIERS, "file", "vendor")}
        assert counted == {totals[date.fromisoformat(day["day"])]}
    for day in report["reports"]["conversation_day"]["days"]:
        assert len(set(day["totals"].values())) == 1

    (edge,) = (project / "data").glob("arrivals-*/edge/v1/default")
    closed_day = read(f"file://{edge}", "queue_interval", ["offered"], "2026-03-30/2026-03-31")
    assert sum(closed_day["offered"].to_pylist()) == totals[date(2026, 3, 30)] == 0
    assert [path.parent.name for path in edge.glob("data/queue_interval/*/*.parquet")] == ["month=2026-03"]
    assert (edge / "index.html").exists()
    assert "executives.html" in demo.said()


def test_a_demo_killed_half_way_is_finished_by_the_next(project, command_line):
    """Nothing that was fetched is fetched again, nothing started is left, and the figures are right."""
    today = datetime.now(UTC).date()
    options = ["--from", str(today - timedelta(days=4)), "--to", str(today)]
    killed = command_line("demo", *options)
    staged = project / "data" / "demo" / "staged"
    deadline = time.monotonic() + 90
    while len(list(staged.glob("queue_interval/*/*.parquet"))) < 24:
        assert time.monotonic() < deadline, killed.said()
        time.sleep(0.1)
    killed.kill()
    kept = {path: path.stat().st_mtime_ns for path in staged.rglob("*.parquet")}
    assert leftovers_are_gone(project)

    finished = command_line("demo", *options)
    assert finished.ended(200) == 0, finished.said()
    report = json.loads((project / "data" / "demo-report.json").read_text())
    assert report["succeeded"] is True
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    again = command_line("demo", *options)
    assert again.ended(200) == 0, again.said()
    report = json.loads((project / "data" / "demo-report.json").read_text())
    assert report["upstream"]["requests"] == 0


def test_ctrl_c_stops_everything_that_was_started(project, command_line):
    demo = command_line("demo")
    deadline = time.monotonic() + 60
    while "Backfilling" not in demo.said():
        assert time.monotonic() < deadline, demo.said()
        time.sleep(0.1)
    time.sleep(2)
    demo.interrupt()
    assert demo.ended(30) == 130
    assert demo.said().splitlines()[-1] == "cache-pipeline: interrupted; everything it started has been stopped"
    assert leftovers_are_gone(project, seconds=10)

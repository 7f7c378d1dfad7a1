"""Tests of the simulated report-data API of the guide."""

from itertools import pairwise
from typing import Any

import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import DAY, REPORTDATA, Vendor, open_vendor, report_body

COLUMNS = {
    "queue-performance": [
        *("offered", "answered", "abandoned", "transferred", "answeredWithinTarget"),
        *("waitMs", "handleMs", "talkMs", "acwMs"),
    ],
    "agent-performance": ["answered", "transferred", "handleMs", "talkMs", "heldMs", "acwMs"],
}
DIMENSIONS = {"queue-performance": ["queueId", "mediaType"], "agent-performance": ["userId", "queueId"]}


def _sum(rows: list[dict[str, Any]], column: str) -> int:
    return sum(row[column] for row in rows)


def test_submit_returns_a_queued_query(shared_vendor: Vendor) -> None:
    answer = shared_vendor.post(f"{REPORTDATA}/async", report_body())
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"id", "status", "percentComplete", "createdTime"}
    assert (body["status"], body["percentComplete"]) == ("queued", 0)
    assert body["createdTime"] == "2024-06-12T10:00:30.000Z"


def test_query_state_follows_the_clock(shared_vendor: Vendor) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}"
    states = []
    for _ in range(40):
        status = shared_vendor.get(path).json()
        states.append((status["status"], status["percentComplete"]))
        assert ("resultUrl" in status) == (status["status"] == "completed")
        shared_vendor.clock.seconds += 0.05
    order = ["queued", "processing", "completed"]
    assert list(dict.fromkeys(state for state, _ in states)) == order
    assert all(earlier <= later for (_, earlier), (_, later) in pairwise(states))
    queued = sum(state == "queued" for state, _ in states)
    working = sum(state == "processing" for state, _ in states)
    assert queued <= (queued + working) / 5 + 1
    assert states[-1] == ("completed", 100)
    assert shared_vendor.get(shared_vendor.get(path).json()["resultUrl"]).json()["rows"]


def test_duration_grows_with_the_interval(shared_vendor: Vendor) -> None:
    def seconds(**changes: Any) -> float:
        path, start = f"{REPORTDATA}/{shared_vendor.submit(**changes)}", shared_vendor.clock.seconds
        while shared_vendor.get(path).json()["status"] != "completed":
            shared_vendor.clock.seconds += 0.25
        shared_vendor.clock.seconds += 100
        return shared_vendor.clock.seconds - 100 - start

    week = "2024-06-01T00:00:00Z/2024-06-08T00:00:00Z"
    assert seconds() == seconds() < seconds(interval=week)


@pytest.mark.parametrize("report", COLUMNS)
def test_row_has_bucket_dimensions_and_integers(shared_vendor: Vendor, report: str) -> None:
    rows = shared_vendor.rows(reportId=report)
    assert len(rows) > 100
    for row in rows:
        assert list(row) == ["intervalStart", "intervalEnd", *DIMENSIONS[report], *COLUMNS[report]]
        assert row["intervalStart"].endswith(":00:00.000Z")
        assert all(type(row[column]) is int and row[column] >= 0 for column in COLUMNS[report])
        assert any(row[column] for column in COLUMNS[report])
    assert [row["intervalStart"] for row in rows] == sorted(row["intervalStart"] for row in rows)


def test_pages_join_without_gap_or_overlap(shared_vendor: Vendor) -> None:
    all_rows = shared_vendor.rows()
    path = f"{REPORTDATA}/{shared_vendor.submit()}/results"
    shared_vendor.clock.seconds += 60
    for size in (1000, 37):
        first = shared_vendor.get(path, pageSize=size).json()
        assert len(first["rows"]) == min(size, len(all_rows))
        assert ("cursor" in first) == (size < len(all_rows))
        assert list(shared_vendor.pages(path, "rows", pageSize=size)) == all_rows
        shared_vendor.clock.seconds += 60
    assert len(all_rows) > 37
    exactly = shared_vendor.get(path, pageSize=len(all_rows)).json()
    assert "cursor" not in exactly


def test_fewer_columns_and_groups_have_equal_sums(shared_vendor: Vendor) -> None:
    all_rows = shared_vendor.rows()
    by_queue = shared_vendor.rows(groupBy=["queueId"], columns=["offered", "waitMs"])
    total = shared_vendor.rows(groupBy=[], timeGrouping="byDay", columns=["waitMs", "offered"])
    assert list(by_queue[0]) == ["intervalStart", "intervalEnd", "queueId", "offered", "waitMs"]
    assert list(total[0]) == ["intervalStart", "intervalEnd", "waitMs", "offered"]
    assert len(total) == 1
    for column in ("offered", "waitMs"):
        assert _sum(all_rows, column) == _sum(by_queue, column) == _sum(total, column)


def test_filters_include_and_exclude_rows(shared_vendor: Vendor) -> None:
    all_rows = shared_vendor.rows()
    queue = all_rows[0]["queueId"]

    def query(kind: str, *predicates: tuple[str, str, list[str]]) -> list[dict[str, Any]]:
        named = [dict(zip(("dimension", "operator", "values"), fields, strict=True)) for fields in predicates]
        return shared_vendor.rows(filters={"type": kind, "predicates": named})

    of_queue, voice = ("queueId", "in", [queue]), ("mediaType", "in", ["voice"])
    assert query("and", of_queue) == [row for row in all_rows if row["queueId"] == queue]
    assert query("and", ("queueId", "notIn", [queue])) == [row for row in all_rows if row["queueId"] != queue]
    both = [row for row in all_rows if row["queueId"] == queue and row["mediaType"] == "voice"]
    either = [row for row in all_rows if row["queueId"] == queue or row["mediaType"] == "voice"]
    assert query("and", of_queue, voice) == both
    assert query("or", of_queue, voice) == either
    assert query("and", ("queueId", "in", ["unknown"])) == []
    assert 0 < len(both) < len(either) < len(all_rows)


@pytest.mark.parametrize(
    ("interval", "hours"),
    [
        ("2024-03-31T00:00:00+01:00/2024-04-01T00:00:00+02:00", 23),
        ("2023-10-29T00:00:00+02:00/2023-10-30T00:00:00+01:00", 25),
        ("2024-06-10T00:00:00+02:00/2024-06-11T00:00:00+02:00", 24),
    ],
)
def test_hours_add_up_to_the_day_across_clock_changes(interval: str, hours: int) -> None:
    with open_vendor(SimulatorSettings(conversations_per_working_day=20_000)) as vendor:
        zone = {"interval": interval, "timeZone": "Europe/Berlin"}
        day = vendor.rows(timeGrouping="byDay", groupBy=[], **zone)
        by_hour = vendor.rows(timeGrouping="byHour", groupBy=[], **zone)
        quarters = vendor.rows(timeGrouping="by15Minutes", groupBy=[], **zone)
    assert len(day) == 1
    assert len({row["intervalStart"] for row in by_hour}) == hours
    for column in COLUMNS["queue-performance"]:
        assert _sum(day, column) == _sum(by_hour, column) == _sum(quarters, column) > 0


def test_calendar_buckets_begin_on_the_local_calendar(shared_vendor: Vendor) -> None:
    def buckets(grouping: str) -> list[tuple[str, str]]:
        interval = "2024-03-20T12:00:00+01:00/2024-04-10T12:00:00+02:00"
        rows = shared_vendor.rows(timeGrouping=grouping, interval=interval, timeZone="Europe/Berlin", groupBy=[])
        return [(row["intervalStart"][:16], row["intervalEnd"][:16]) for row in rows]

    assert buckets("byMonth") == [
        ("2024-03-20T11:00", "2024-03-31T22:00"),
        ("2024-03-31T22:00", "2024-04-10T10:00"),
    ]
    assert buckets("byWeek") == [
        ("2024-03-20T11:00", "2024-03-24T23:00"),
        ("2024-03-24T23:00", "2024-03-31T22:00"),
        ("2024-03-31T22:00", "2024-04-07T22:00"),
        ("2024-04-07T22:00", "2024-04-10T10:00"),
    ]
    days = buckets("byDay")
    assert len(days) == 22
    assert ("2024-03-30T23:00", "2024-03-31T22:00") in days


def test_result_with_too_many_rows_is_silently_truncated() -> None:
    with open_vendor(SimulatorSettings()) as vendor:
        all_rows = vendor.rows()
    with open_vendor(SimulatorSettings(reportdata_max_rows=100)) as vendor:
        assert vendor.rows() == all_rows[:100]
        assert vendor.rows(groupBy=[]) != []
        assert len(vendor.rows(groupBy=[])) == 24


def test_results_have_the_watermark_only_when_completed(shared_vendor: Vendor) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}"
    early = shared_vendor.get(f"{path}/results")
    assert (early.status_code, early.json()["status"]) == (400, 400)
    assert "not completed" in early.json()["message"]
    shared_vendor.clock.seconds += 60
    assert shared_vendor.get(f"{path}/results").json()["dataAvailabilityDate"] == "2024-06-12T09:58:00.000Z"


def test_unknown_and_expired_jobs_are_404() -> None:
    with open_vendor(SimulatorSettings(job_lifetime_seconds=100)) as vendor:
        path = f"{REPORTDATA}/{vendor.submit()}"
        for unknown in (f"{REPORTDATA}/nonsense", f"{REPORTDATA}/nonsense/results"):
            answer = vendor.get(unknown)
            assert (answer.status_code, answer.json()["code"]) == (404, "not.found")
        vendor.clock.seconds += 99
        assert vendor.get(path).json()["status"] == "completed"
        vendor.clock.seconds += 1
        assert vendor.get(path).status_code == 404
        assert vendor.get(f"{path}/results").status_code == 404


def test_any_token_of_the_organisation_can_read_a_job(shared_vendor: Vendor) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}"
    shared_vendor.clock.seconds += 60
    shared_vendor.login()
    assert shared_vendor.get(f"{path}/results").json()["rows"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reportId": "nonsense"}, "queue-performance"),
        ({"timeGrouping": "byMinute"}, "by15Minutes"),
        ({"timeZone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"timeZone": ""}, "timeZone"),
        ({"interval": "2024-06-10T00:00:00Z"}, "start/end"),
        ({"interval": "2024-06-10/2024-06-11"}, "2024-06-10"),
        ({"interval": "2024-06-11T00:00:00Z/2024-06-10T00:00:00Z"}, "no later"),
        ({"interval": "2024-06-11T00:00:00Z/2024-06-11T00:00:00Z"}, "no later"),
        ({"interval": "2024-02-30T00:00:00Z/2024-03-11T00:00:00Z"}, "interval"),
        ({"interval": "1970-01-01T00:00:00Z/2100-01-01T00:00:00Z"}, "buckets"),
        ({"interval": None}, "interval"),
        ({"groupBy": ["userId"]}, "userId"),
        ({"columns": ["heldMs"]}, "heldMs"),
        ({"columns": []}, "columns"),
        ({"filters": {"type": "xor", "predicates": []}}, "filters.type"),
        (
            {"filters": {"type": "and", "predicates": [{"dimension": "userId", "operator": "in", "values": ["a"]}]}},
            "userId",
        ),
        (
            {"filters": {"type": "and", "predicates": [{"dimension": "queueId", "operator": "like", "values": ["a"]}]}},
            "operator",
        ),
        (
            {"filters": {"type": "and", "predicates": [{"dimension": "queueId", "operator": "in", "values": []}]}},
            "values",
        ),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_invalid_query_is_400_with_the_reason(shared_vendor: Vendor, changes: dict[str, Any], message: str) -> None:
    answer = shared_vendor.post(f"{REPORTDATA}/async", report_body(**changes))
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert answer.json()["status"] == 400
    assert "X-RateLimit-Remaining" in answer.headers


def test_invalid_body_is_refused(shared_vendor: Vendor) -> None:
    def send(content: bytes, kind: str = "application/json") -> int:
        headers = shared_vendor.headers | {"Content-Type": kind}
        return shared_vendor.http.post(f"{REPORTDATA}/async", content=content, headers=headers).status_code

    assert send(b"{") == 400
    assert send(b"[]") == 400
    assert send(b"\xff\xfe") == 400
    assert send(b"{}", "text/plain") == 415
    assert send(b" " * 512_000) == 400
    assert send(b" " * 512_001) == 413


@pytest.mark.parametrize("params", [{"pageSize": "0"}, {"pageSize": "1001"}, {"pageSize": "x"}, {"cursor": "%%"}])
def test_invalid_page_is_400(shared_vendor: Vendor, params: dict[str, str]) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}/results"
    shared_vendor.clock.seconds += 60
    assert shared_vendor.get(path, **params).status_code == 400


def test_cursor_of_another_job_is_400(shared_vendor: Vendor) -> None:
    one, other = (f"{REPORTDATA}/{shared_vendor.submit(interval=DAY)}/results" for _ in range(2))
    shared_vendor.clock.seconds += 60
    cursor = shared_vendor.get(one, pageSize=10).json()["cursor"]
    assert shared_vendor.get(other, cursor=cursor).status_code == 400


def test_unknown_endpoint_is_404_with_an_error_body(shared_vendor: Vendor) -> None:
    for answer in (shared_vendor.get("/api/v2/analytics/reportdata/other"), shared_vendor.delete(f"{REPORTDATA}/x")):
        assert (answer.status_code, answer.json()["code"]) == (404, "not.found")
        assert "X-RateLimit-Remaining" in answer.headers

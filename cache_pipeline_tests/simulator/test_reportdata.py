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


def test_a_submit_answers_at_once_that_the_query_is_queued(shared_vendor: Vendor) -> None:
    answer = shared_vendor.post(f"{REPORTDATA}/async", report_body())
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"id", "status", "percentComplete", "createdTime"}
    assert (body["status"], body["percentComplete"]) == ("queued", 0)
    assert body["createdTime"] == "2024-06-12T10:00:30.000Z"


def test_a_query_is_queued_then_processed_then_completed_by_the_clock(shared_vendor: Vendor) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}"
    seen = []
    for _ in range(40):
        status = shared_vendor.get(path).json()
        seen.append((status["status"], status["percentComplete"]))
        assert ("resultUrl" in status) == (status["status"] == "completed")
        shared_vendor.clock.seconds += 0.05
    order = ["queued", "processing", "completed"]
    assert list(dict.fromkeys(state for state, _ in seen)) == order
    assert all(earlier <= later for (_, earlier), (_, later) in pairwise(seen))
    queued = sum(state == "queued" for state, _ in seen)
    working = sum(state == "processing" for state, _ in seen)
    assert queued <= (queued + working) / 5 + 1
    assert seen[-1] == ("completed", 100)
    assert shared_vendor.get(shared_vendor.get(path).json()["resultUrl"]).json()["rows"]


def test_a_longer_interval_takes_longer_and_equal_queries_take_equally_long(shared_vendor: Vendor) -> None:
    def seconds(**changes: Any) -> float:
        path, start = f"{REPORTDATA}/{shared_vendor.submit(**changes)}", shared_vendor.clock.seconds
        while shared_vendor.get(path).json()["status"] != "completed":
            shared_vendor.clock.seconds += 0.25
        shared_vendor.clock.seconds += 100
        return shared_vendor.clock.seconds - 100 - start

    week = "2024-06-01T00:00:00Z/2024-06-08T00:00:00Z"
    assert seconds() == seconds() < seconds(interval=week)


@pytest.mark.parametrize("report", COLUMNS)
def test_a_row_has_its_bucket_its_dimensions_and_whole_numbers(shared_vendor: Vendor, report: str) -> None:
    rows = shared_vendor.rows(reportId=report)
    assert len(rows) > 100
    for row in rows:
        assert list(row) == ["intervalStart", "intervalEnd", *DIMENSIONS[report], *COLUMNS[report]]
        assert row["intervalStart"].endswith(":00:00.000Z")
        assert all(type(row[column]) is int and row[column] >= 0 for column in COLUMNS[report])
        assert any(row[column] for column in COLUMNS[report])
    assert [row["intervalStart"] for row in rows] == sorted(row["intervalStart"] for row in rows)


def test_pages_join_without_gap_or_overlap_and_the_last_has_no_cursor(shared_vendor: Vendor) -> None:
    whole = shared_vendor.rows()
    path = f"{REPORTDATA}/{shared_vendor.submit()}/results"
    shared_vendor.clock.seconds += 60
    for size in (1000, 37):
        first = shared_vendor.get(path, pageSize=size).json()
        assert len(first["rows"]) == min(size, len(whole))
        assert ("cursor" in first) == (size < len(whole))
        assert list(shared_vendor.pages(path, "rows", pageSize=size)) == whole
        shared_vendor.clock.seconds += 60
    assert len(whole) > 37
    exactly = shared_vendor.get(path, pageSize=len(whole)).json()
    assert "cursor" not in exactly


def test_columns_and_groups_may_be_fewer_and_say_the_same(shared_vendor: Vendor) -> None:
    whole = shared_vendor.rows()
    by_queue = shared_vendor.rows(groupBy=["queueId"], columns=["offered", "waitMs"])
    total = shared_vendor.rows(groupBy=[], timeGrouping="byDay", columns=["waitMs", "offered"])
    assert list(by_queue[0]) == ["intervalStart", "intervalEnd", "queueId", "offered", "waitMs"]
    assert list(total[0]) == ["intervalStart", "intervalEnd", "waitMs", "offered"]
    assert len(total) == 1
    for column in ("offered", "waitMs"):
        assert _sum(whole, column) == _sum(by_queue, column) == _sum(total, column)


def test_filters_keep_and_leave_out_what_they_name(shared_vendor: Vendor) -> None:
    whole = shared_vendor.rows()
    queue = whole[0]["queueId"]

    def ask(kind: str, *predicates: tuple[str, str, list[str]]) -> list[dict[str, Any]]:
        named = [dict(zip(("dimension", "operator", "values"), each, strict=True)) for each in predicates]
        return shared_vendor.rows(filters={"type": kind, "predicates": named})

    of_queue, voice = ("queueId", "in", [queue]), ("mediaType", "in", ["voice"])
    assert ask("and", of_queue) == [row for row in whole if row["queueId"] == queue]
    assert ask("and", ("queueId", "notIn", [queue])) == [row for row in whole if row["queueId"] != queue]
    both = [row for row in whole if row["queueId"] == queue and row["mediaType"] == "voice"]
    either = [row for row in whole if row["queueId"] == queue or row["mediaType"] == "voice"]
    assert ask("and", of_queue, voice) == both
    assert ask("or", of_queue, voice) == either
    assert ask("and", ("queueId", "in", ["nobody's"])) == []
    assert 0 < len(both) < len(either) < len(whole)


@pytest.mark.parametrize(
    ("interval", "hours"),
    [
        ("2024-03-31T00:00:00+01:00/2024-04-01T00:00:00+02:00", 23),
        ("2023-10-29T00:00:00+02:00/2023-10-30T00:00:00+01:00", 25),
        ("2024-06-10T00:00:00+02:00/2024-06-11T00:00:00+02:00", 24),
    ],
)
def test_the_hours_of_a_local_day_sum_to_the_day_also_when_clocks_change(interval: str, hours: int) -> None:
    with open_vendor(SimulatorSettings(conversations_per_working_day=20_000)) as vendor:
        zone = {"interval": interval, "timeZone": "Europe/Berlin"}
        day = vendor.rows(timeGrouping="byDay", groupBy=[], **zone)
        by_hour = vendor.rows(timeGrouping="byHour", groupBy=[], **zone)
        quarters = vendor.rows(timeGrouping="by15Minutes", groupBy=[], **zone)
    assert len(day) == 1
    assert len({row["intervalStart"] for row in by_hour}) == hours
    for column in COLUMNS["queue-performance"]:
        assert _sum(day, column) == _sum(by_hour, column) == _sum(quarters, column) > 0


def test_calendar_buckets_begin_at_local_midnight_monday_and_the_first(shared_vendor: Vendor) -> None:
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


def test_a_result_with_too_many_rows_is_cut_in_time_order_and_still_says_completed() -> None:
    with open_vendor(SimulatorSettings()) as vendor:
        whole = vendor.rows()
    with open_vendor(SimulatorSettings(reportdata_max_rows=100)) as vendor:
        assert vendor.rows() == whole[:100]
        assert vendor.rows(groupBy=[]) != []
        assert len(vendor.rows(groupBy=[])) == 24


def test_results_carry_the_watermark_and_are_not_there_before_completion(shared_vendor: Vendor) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}"
    early = shared_vendor.get(f"{path}/results")
    assert (early.status_code, early.json()["status"]) == (400, 400)
    assert "not completed" in early.json()["message"]
    shared_vendor.clock.seconds += 60
    assert shared_vendor.get(f"{path}/results").json()["dataAvailabilityDate"] == "2024-06-12T09:58:00.000Z"


def test_an_unknown_job_is_404_and_so_is_an_expired_one() -> None:
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


def test_any_token_of_the_organisation_may_read_a_job(shared_vendor: Vendor) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}"
    shared_vendor.clock.seconds += 60
    shared_vendor.login()
    assert shared_vendor.get(f"{path}/results").json()["rows"]


@pytest.mark.parametrize(
    ("changes", "says"),
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
def test_a_wrong_query_is_400_and_says_what_is_wrong(shared_vendor: Vendor, changes: dict[str, Any], says: str) -> None:
    answer = shared_vendor.post(f"{REPORTDATA}/async", report_body(**changes))
    assert answer.status_code == 400
    assert says in answer.json()["message"]
    assert answer.json()["status"] == 400
    assert "X-RateLimit-Remaining" in answer.headers


def test_a_body_that_is_no_json_or_too_long_or_of_another_type_is_refused(shared_vendor: Vendor) -> None:
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
def test_a_wrong_page_is_400(shared_vendor: Vendor, params: dict[str, str]) -> None:
    path = f"{REPORTDATA}/{shared_vendor.submit()}/results"
    shared_vendor.clock.seconds += 60
    assert shared_vendor.get(path, **params).status_code == 400


def test_a_cursor_of_another_job_is_400(shared_vendor: Vendor) -> None:
    one, other = (f"{REPORTDATA}/{shared_vendor.submit(interval=DAY)}/results" for _ in range(2))
    shared_vendor.clock.seconds += 60
    cursor = shared_vendor.get(one, pageSize=10).json()["cursor"]
    assert shared_vendor.get(other, cursor=cursor).status_code == 400


def test_an_unknown_endpoint_is_404_with_an_error_body(shared_vendor: Vendor) -> None:
    for answer in (shared_vendor.get("/api/v2/analytics/reportdata/other"), shared_vendor.delete(f"{REPORTDATA}/x")):
        assert (answer.status_code, answer.json()["code"]) == (404, "not.found")
        assert "X-RateLimit-Remaining" in answer.headers

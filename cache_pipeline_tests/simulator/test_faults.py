"""Tests of configurable faults."""

import pytest

from cache_pipeline.simulator.faults import Faults
from cache_pipeline_tests.simulator.vendor import (
    AGGREGATES,
    AVAILABILITY,
    REPORTDATA,
    Json,
    Vendor,
    aggregate_body,
    report_body,
)

FAULTS = "/simulator/faults"
NONE: Json = Faults().model_dump()


def _set(vendor: Vendor, **faults: int) -> None:
    assert vendor.http.post(FAULTS, json=faults).status_code == 200


def test_faults_are_read_replaced_and_cleared_without_token(shared_vendor: Vendor) -> None:
    assert shared_vendor.http.get(FAULTS).json() == NONE
    assert shared_vendor.http.post(FAULTS, json={"fail_jobs": 2}).json() == NONE | {"fail_jobs": 2}
    assert shared_vendor.http.post(FAULTS, json={"max_rows": 5}).json() == NONE | {"max_rows": 5}
    assert shared_vendor.http.delete(FAULTS).status_code == 204
    assert shared_vendor.http.get(FAULTS).json() == NONE


@pytest.mark.parametrize("wrong", [{"surprise": 1}, {"fail_jobs": -1}, {"fail_jobs": "2"}, {"max_rows": 1.5}, []])
def test_invalid_fault_is_400_and_changes_nothing(shared_vendor: Vendor, wrong: object) -> None:
    assert shared_vendor.http.post(FAULTS, json=wrong).status_code == 400
    assert shared_vendor.http.get(FAULTS).json() == NONE


def test_max_rows_truncates_every_query(shared_vendor: Vendor) -> None:
    hour = "2024-06-10T08:00:00Z/2024-06-10T09:00:00Z"
    rows = shared_vendor.rows(interval=hour)
    _set(shared_vendor, max_rows=3)
    assert shared_vendor.rows(interval=hour) == rows[:3]
    assert len(shared_vendor.aggregate(interval=hour)) == 3
    job = shared_vendor.post(f"{AGGREGATES}/jobs", aggregate_body(interval=hour)).json()["jobId"]
    shared_vendor.clock.seconds += 60
    assert len(shared_vendor.get(f"{AGGREGATES}/jobs/{job}/results").json()["results"]) == 3
    shared_vendor.http.delete(FAULTS)
    assert shared_vendor.rows(interval=hour) == rows


@pytest.mark.parametrize("wrong", ["2024-06-10", "tomorrow/yesterday", "2024-06-11T00:00Z/2024-06-10T00:00Z"])
def test_interval_of_failing_jobs_is_checked(shared_vendor: Vendor, wrong: str) -> None:
    assert shared_vendor.http.post(FAULTS, json={"fail_jobs_touching": wrong}).status_code == 400


def test_every_job_touching_an_interval_fails(shared_vendor: Vendor) -> None:
    morning, noon, evening = ("2024-06-10T{:02}:00:00Z/2024-06-10T{:02}:00:00Z".format(*each) for each in
                              ((6, 12), (11, 13), (13, 20)))  # fmt: skip
    faults = {"fail_jobs_touching": "2024-06-10T12:00:00Z/2024-06-10T13:00:00Z"}
    assert shared_vendor.http.post(FAULTS, json=faults).json() == NONE | faults
    jobs = [f"{REPORTDATA}/{shared_vendor.submit(interval=each)}" for each in (morning, noon, evening)]
    job = shared_vendor.post(f"{AGGREGATES}/jobs", aggregate_body(interval=noon)).json()["jobId"]
    shared_vendor.clock.seconds += 60
    assert [shared_vendor.get(each).json()["status"] for each in jobs] == ["completed", "failed", "completed"]
    assert shared_vendor.get(f"{AGGREGATES}/jobs/{job}").json()["state"] == "FAILED"


def test_fail_jobs_applies_to_that_many_jobs(shared_vendor: Vendor) -> None:
    _set(shared_vendor, fail_jobs=2)
    first = f"{REPORTDATA}/{shared_vendor.submit()}"
    second = f"{AGGREGATES}/jobs/{shared_vendor.post(f'{AGGREGATES}/jobs', aggregate_body()).json()['jobId']}"
    third = f"{REPORTDATA}/{shared_vendor.submit()}"
    assert shared_vendor.get(first).json()["status"] == "queued"
    shared_vendor.clock.seconds += 60
    failed = shared_vendor.get(first).json()
    assert failed["status"] == "failed"
    assert failed["errorMessage"]
    assert "resultUrl" not in failed
    assert shared_vendor.get(f"{first}/results").status_code == 400
    failed = shared_vendor.get(second).json()
    assert (failed["state"], bool(failed["errorMessage"])) == ("FAILED", True)
    assert shared_vendor.get(third).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("server_errors", 503, "service.unavailable"),
        ("reject_with_429", 429, "too.many.requests"),
        ("unauthorized", 401, "bad.credentials"),
    ],
)
def test_fault_occurs_as_often_as_set_on_any_platform(shared_vendor, fault: str, status: int, code: str) -> None:
    _set(shared_vendor, **{fault: 2})
    for answer in (shared_vendor.get(AVAILABILITY), shared_vendor.get(f"{REPORTDATA}/unknown")):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "Retry-After" not in answer.headers
    assert shared_vendor.get(AVAILABILITY).status_code == 200
    assert shared_vendor.http.get(FAULTS).json() == NONE


def test_configured_rejections_do_not_count_but_server_errors_do(vendor: Vendor) -> None:
    _set(vendor, reject_with_429=1, unauthorized=1, server_errors=1)
    unauthorized, rejected, broken, normal = (vendor.get(f"{REPORTDATA}/unknown") for _ in range(4))
    results = [
        (answer.status_code, answer.headers["X-RateLimit-Remaining"])
        for answer in (unauthorized, rejected, broken, normal)
    ]
    assert results == [(401, "60"), (429, "0"), (503, "59"), (404, "58")]


HOURS = "2024-06-10T08:00:00Z/2024-06-10T12:00:00Z"
DETAILS = "/api/v2/analytics/conversations/details"
PRESENCE = "/api/v2/analytics/users/details"
USER_SUMS = "/api/v2/analytics/users/aggregates/query"


def _job(vendor: Vendor, path: str, body: Json) -> str:
    job = vendor.post(f"{path}/jobs", body).json()["jobId"]
    vendor.clock.seconds += 600
    # A machine that is slower than the simulated duration delays the result.
    while vendor.get(f"{path}/jobs/{job}").json()["state"] == "PENDING":
        continue
    return f"{path}/jobs/{job}"


def _buckets(results: list[Json]) -> list[tuple[str, str]]:
    return [(result["group"]["queueId"], entry["interval"]) for result in results for entry in result["data"]]


def test_truncation_by_groups_removes_whole_groups(shared_vendor: Vendor) -> None:
    voice = {"type": "and", "predicates": [{"dimension": "mediaType", "value": "voice"}]}
    every = _buckets(shared_vendor.aggregate(interval=HOURS, groupBy=["queueId"], filter=voice))
    shared_vendor.http.post(FAULTS, json={"max_rows": 9, "order": "groups"})
    kept = _buckets(shared_vendor.aggregate(interval=HOURS, groupBy=["queueId"], filter=voice))
    assert len(kept) == 9
    # Two queues with all four hours, and a third with one.
    assert len({queue for queue, _ in kept}) == 3
    assert all(bucket in kept for bucket in every if bucket[0] == kept[0][0])
    rows = shared_vendor.rows(interval=HOURS, groupBy=["queueId"])
    assert [row["queueId"] for row in rows] == sorted((queue for queue, _ in kept), key=[q for q, _ in kept].index)


def test_max_bytes_truncates_every_kind_of_result(shared_vendor: Vendor) -> None:
    users = {"interval": HOURS, "granularity": "PT1H", "groupBy": ["userId"], "metrics": ["tSystemPresence"]}
    shared_vendor.http.post(FAULTS, json={"max_bytes": 3000})
    aggregate = shared_vendor.post(f"{AGGREGATES}/query", aggregate_body(interval=HOURS))
    sums = shared_vendor.post(USER_SUMS, users)
    pages = [
        shared_vendor.get(f"{_job(shared_vendor, path, {'interval': HOURS})}/results") for path in (DETAILS, PRESENCE)
    ]
    for answer in (aggregate, sums):
        assert 2000 < len(answer.content) <= 3100
    # The page carries its watermark too, and a user's day is longer than a call.
    assert 1000 < len(pages[0].content) <= 3100
    assert len(pages[1].json()["userDetails"]) < 30
    assert 2000 < len(str(shared_vendor.rows(interval=HOURS))) < 3500


@pytest.mark.parametrize("status", [400, 413, 504])
def test_queries_for_long_intervals_are_refused_for_their_size(shared_vendor: Vendor, status: int) -> None:
    shared_vendor.http.post(FAULTS, json={"longest_interval_hours": 3, "size_refusal": status})
    body, details = aggregate_body(interval=HOURS), {"interval": HOURS}
    refused = [
        shared_vendor.post(f"{AGGREGATES}/query", body),
        shared_vendor.post(f"{AGGREGATES}/jobs", body),
        shared_vendor.post(f"{DETAILS}/jobs", details),
        shared_vendor.post(f"{DETAILS}/query", details),
        shared_vendor.post(f"{PRESENCE}/query", details),
        shared_vendor.post(f"{REPORTDATA}/async", report_body(interval=HOURS)),
    ]
    assert {answer.status_code for answer in refused} == {status}
    assert ("interval" in refused[0].json()["message"]) == (status != 504)
    three_hours = "2024-06-10T08:00:00Z/2024-06-10T11:00:00Z"
    assert shared_vendor.aggregate(interval=three_hours)


def test_job_for_long_interval_is_accepted_and_fails(shared_vendor: Vendor) -> None:
    shared_vendor.http.post(FAULTS, json={"longest_interval_hours": 3, "size_refusal": "failed"})
    answer = shared_vendor.get(_job(shared_vendor, AGGREGATES, aggregate_body(interval=HOURS))).json()
    assert answer["state"] == "FAILED"
    assert "reduce the interval" in answer["errorMessage"]
    assert shared_vendor.post(f"{AGGREGATES}/query", aggregate_body(interval=HOURS)).status_code == 504


def test_queries_in_an_empty_moment_have_no_rows(shared_vendor: Vendor) -> None:
    shared_vendor.http.post(FAULTS, json={"empty_seconds": 2})
    assert shared_vendor.aggregate(interval=HOURS) == []
    job = shared_vendor.submit(interval=HOURS)
    shared_vendor.clock.seconds += 2
    assert shared_vendor.aggregate(interval=HOURS) != []
    shared_vendor.clock.seconds += 600
    assert shared_vendor.get(f"{REPORTDATA}/{job}/results").json()["rows"] == []


def test_request_timeouts_are_408(shared_vendor: Vendor) -> None:
    _set(shared_vendor, request_timeouts=1)
    answer = shared_vendor.get(AVAILABILITY)
    assert (answer.status_code, answer.json()["code"]) == (408, "client.timeout")
    assert shared_vendor.get(AVAILABILITY).status_code == 200


def test_pages_repeat_entries_of_the_page_before(shared_vendor: Vendor) -> None:
    path = _job(shared_vendor, DETAILS, {"interval": "2024-06-10T08:00:00Z/2024-06-10T08:05:00Z"})
    once = [row["conversationId"] for row in shared_vendor.pages(f"{path}/results", "conversations", pageSize=20)]
    _set(shared_vendor, repeat_records=2)
    repeated = [row["conversationId"] for row in shared_vendor.pages(f"{path}/results", "conversations", pageSize=20)]
    assert len(set(once)) == len(once) > 40
    assert list(dict.fromkeys(repeated)) == once
    assert repeated[20:22] == once[18:20]
    assert repeated[-2:] == once[-2:]
    assert len(repeated) == len(once) + 2 * -(-len(once) // 20)

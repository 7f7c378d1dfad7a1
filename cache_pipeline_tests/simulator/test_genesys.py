"""Tests of the simulated Genesys aggregates, by query and by job."""

from typing import Any

import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import (
    AGGREGATES,
    AVAILABILITY,
    DAY,
    Json,
    Vendor,
    aggregate_body,
    offered,
    open_vendor,
)

METRICS = [
    *("nOffered", "nConnected", "nTransferred", "nOverSla"),
    *("tAnswered", "tAbandon", "tWait", "tTalk", "tHeld", "tAcw", "tHandle", "oServiceLevel"),
]
STATES = {"QUEUED", "PENDING", "FULFILLED", "FAILED", "CANCELLED", "EXPIRED"}


def _total(results: list[Json], metric: str, figure: str) -> float:
    return sum(
        entry["stats"][figure]
        for result in results
        for bucket in result["data"]
        for entry in bucket["metrics"]
        if entry["metric"] == metric
    )


def _predicate(dimension: str, value: str | None = None, **fields: Any) -> Json:
    return {"dimension": dimension, **({} if value is None else {"value": value}), **fields}


def test_aggregate_has_the_documented_shape(shared_vendor: Vendor) -> None:
    results = shared_vendor.aggregate(metrics=METRICS)
    metrics: set[str] = set()
    for result in results:
        assert set(result) == {"group", "data"}
        assert set(result["group"]) == {"queueId", "mediaType"}
        intervals = [bucket["interval"] for bucket in result["data"]]
        assert intervals == sorted(set(intervals))
        for bucket in result["data"]:
            assert set(bucket) == {"interval", "metrics"}
            assert bucket["metrics"], "an empty bucket must be absent"
            for entry in bucket["metrics"]:
                metrics.add(entry["metric"])
                _check_stats(entry["metric"], entry["stats"])
    assert metrics == set(METRICS)
    assert results[0]["data"][0]["interval"].count(".000Z") == 2


def _check_stats(metric: str, stats: Json) -> None:
    if metric.startswith("n"):
        assert set(stats) == {"count"}
        assert stats["count"] > 0
    elif metric.startswith("t"):
        assert set(stats) == {"max", "min", "count", "sum"}
        assert 0 <= stats["min"] <= stats["max"] <= stats["sum"] <= stats["max"] * stats["count"]
    else:
        assert set(stats) == {"ratio", "numerator", "denominator", "target"}
        assert stats["ratio"] == stats["numerator"] / stats["denominator"]
        assert 0 <= stats["ratio"] <= 1


def test_figures_of_a_day_are_consistent(shared_vendor: Vendor) -> None:
    results = shared_vendor.aggregate(metrics=METRICS, granularity=None, groupBy=None)
    assert sorted(result["group"]["mediaType"] for result in results) == ["chat", "email", "voice"]
    assert results[0]["data"][0]["interval"] == "2024-06-10T00:00:00.000Z/2024-06-11T00:00:00.000Z"

    def total(metric: str, figure: str) -> float:
        return _total(results, metric, figure)

    assert total("tHandle", "sum") == total("tTalk", "sum") + total("tHeld", "sum") + total("tAcw", "sum")
    assert total("nConnected", "count") == total("tAnswered", "count")
    assert total("oServiceLevel", "denominator") == total("tAnswered", "count") + total("tAbandon", "count")
    assert total("oServiceLevel", "numerator") == total("tAnswered", "count") - total("nOverSla", "count")
    assert total("oServiceLevel", "target") == pytest.approx(3 * 0.8)
    assert 0 < total("tHeld", "count") < total("tTalk", "count")
    assert total("tAbandon", "count") < 0.2 * total("nOffered", "count")


def test_only_answered_calls_have_a_user(shared_vendor: Vendor) -> None:
    results = shared_vendor.aggregate(metrics=["nOffered", "tAnswered", "tAbandon", "tHandle"], groupBy=["userId"])
    with_user = [result for result in results if "userId" in result["group"]]
    without_user = [result for result in results if "userId" not in result["group"]]
    assert len({result["group"]["userId"] for result in with_user}) == 30
    assert [set(result["group"]) for result in without_user] == [{"mediaType"}] * 3
    assert _total(with_user, "nOffered", "count") == _total(with_user, "tAbandon", "count") == 0
    assert _total(without_user, "tAnswered", "count") == _total(without_user, "tHandle", "count") == 0
    assert _total(with_user, "tAnswered", "count") > 0 < _total(without_user, "nOffered", "count")


def test_groups_are_split_by_medium_unless_told_otherwise(shared_vendor: Vendor) -> None:
    split = shared_vendor.aggregate(groupBy=["queueId"])
    assert {frozenset(result["group"]) for result in split} == {frozenset({"queueId", "mediaType"})}
    with open_vendor(SimulatorSettings(split_by_medium=False)) as vendor:
        whole = vendor.aggregate(groupBy=["queueId"])
    assert {frozenset(result["group"]) for result in whole} == {frozenset({"queueId"})}
    assert len(whole) == 8
    assert offered(split) == offered(whole)


def test_filters_combine_clauses_and_predicates(shared_vendor: Vendor) -> None:
    all_results = shared_vendor.aggregate()
    queues = sorted({result["group"]["queueId"] for result in all_results})

    def select(rule: Any) -> list[Json]:
        return [result for result in all_results if rule(result["group"])]

    def query(filter_: Json) -> list[Json]:
        return shared_vendor.aggregate(filter=filter_)

    voice = _predicate("mediaType", "voice", type="dimension", operator="matches")
    two = [_predicate("queueId", queues[0]), _predicate("queueId", queues[1])]
    assert query({"type": "and", "predicates": [voice]}) == select(lambda group: group["mediaType"] == "voice")
    nested = {"type": "and", "clauses": [{"type": "or", "predicates": two}], "predicates": [voice]}
    expected = select(lambda group: group["mediaType"] == "voice" and group["queueId"] in queues[:2])
    assert query(nested) == expected != []
    assert query({"type": "and", "predicates": two}) == []
    assert query({"type": "or", "predicates": two}) == select(lambda group: group["queueId"] in queues[:2])
    assert query({"type": "and", "predicates": [_predicate("mediaType", "video")]}) == []
    assert query({"type": "and", "predicates": [_predicate("queueId", operator="exists")]}) == all_results
    assert query({"type": "and", "predicates": [_predicate("wrapUpCode", operator="exists")]}) == []
    assert query({"type": "and", "predicates": [_predicate("wrapUpCode", operator="notExists")]}) == all_results
    assert query({"type": "and", "predicates": [_predicate("userId", operator="exists")]}) == []


def test_known_names_without_data_are_absent(shared_vendor: Vendor) -> None:
    assert shared_vendor.aggregate(metrics=["nCallbackAttempts"]) == []
    assert shared_vendor.aggregate(metrics=["tIvr", "nOffered"]) == shared_vendor.aggregate()
    assert shared_vendor.aggregate(groupBy=["queueId", "wrapUpCode"]) == shared_vendor.aggregate(groupBy=["queueId"])
    assert shared_vendor.aggregate(flattenMultivaluedDimensions=True) == shared_vendor.aggregate()


@pytest.mark.parametrize(
    ("interval", "hours"),
    [
        ("2024-03-31T00:00:00+01:00/2024-04-01T00:00:00+02:00", 23),
        ("2023-10-29T00:00:00+02:00/2023-10-30T00:00:00+01:00", 25),
    ],
)
def test_day_bucket_follows_the_zone_across_clock_changes(shared_vendor: Vendor, interval: str, hours: int) -> None:
    zone: Json = {"interval": interval, "timeZone": "Europe/Berlin", "groupBy": [], "metrics": METRICS}
    day = shared_vendor.aggregate(granularity="P1D", **zone)
    by_hour = shared_vendor.aggregate(granularity="PT1H", **zone)
    assert len(day[0]["data"]) == 1
    assert len(by_hour[0]["data"]) <= hours
    assert by_hour[0]["data"][-1]["interval"] <= day[0]["data"][0]["interval"].partition("/")[2]
    for metric in METRICS[:4]:
        assert _total(day, metric, "count") == _total(by_hour, metric, "count")
    for metric in METRICS[4:11]:
        for figure in ("count", "sum"):
            assert _total(day, metric, figure) == _total(by_hour, metric, figure) > 0


def test_buckets_begin_at_the_intervals_start(shared_vendor: Vendor) -> None:
    results = shared_vendor.aggregate(
        interval="2024-06-10T06:00:00+02:00/2024-06-12T00:00:00+02:00",
        granularity="P1D",
        timeZone="Europe/Berlin",
        groupBy=[],
    )
    assert [bucket["interval"] for bucket in results[0]["data"]] == [
        "2024-06-10T04:00:00.000Z/2024-06-11T04:00:00.000Z",
        "2024-06-11T04:00:00.000Z/2024-06-11T22:00:00.000Z",
    ]


def test_adjacent_intervals_add_up(shared_vendor: Vendor) -> None:
    cut = "2024-06-10T13:37:11.123Z"
    start, end = DAY.split("/")
    for metric in METRICS[:11]:
        figure = "count" if metric.startswith("n") else "sum"
        parts = [
            _total(shared_vendor.aggregate(interval=part, metrics=[metric], granularity=None), metric, figure)
            for part in (f"{start}/{cut}", f"{cut}/{end}", DAY)
        ]
        assert parts[0] + parts[1] == parts[2]


def test_result_with_too_many_cells_is_silently_truncated(shared_vendor: Vendor) -> None:
    all_results = shared_vendor.aggregate()
    with open_vendor(SimulatorSettings(genesys_max_cells=50)) as vendor:
        truncated = vendor.aggregate()
    cells = [(bucket["interval"], str(result["group"])) for result in truncated for bucket in result["data"]]
    all_cells = [(bucket["interval"], str(result["group"])) for result in all_results for bucket in result["data"]]
    assert len(cells) == 50
    missing = set(all_cells) - set(cells)
    assert max(interval for interval, _ in cells) <= min(interval for interval, _ in missing)


def test_job_is_queued_pending_fulfilled_with_the_querys_answer(shared_vendor: Vendor) -> None:
    answer = shared_vendor.post(f"{AGGREGATES}/jobs", aggregate_body(metrics=METRICS, pageSize=7))
    assert answer.status_code == 202
    assert set(answer.json()) == {"jobId"}
    path = f"{AGGREGATES}/jobs/{answer.json()['jobId']}"
    states = []
    for _ in range(40):
        status = shared_vendor.get(path)
        assert status.status_code == 200
        assert status.json()["state"] in STATES
        states.append(status.json()["state"])
        shared_vendor.clock.seconds += 0.05
    assert list(dict.fromkeys(states)) == ["QUEUED", "PENDING", "FULFILLED"]
    body = shared_vendor.get(path).json()
    assert set(body) == {"state", "submissionDate", "completionDate", "expirationDate"}
    assert body["submissionDate"] < body["completionDate"] < body["expirationDate"]
    pages = list(shared_vendor.pages(f"{path}/results", "results"))
    assert len(shared_vendor.get(f"{path}/results").json()["results"]) == 7
    assert pages == shared_vendor.aggregate(metrics=METRICS)
    assert len(pages) == 24


def test_full_last_page_has_no_cursor(shared_vendor: Vendor) -> None:
    job = shared_vendor.post(f"{AGGREGATES}/jobs", aggregate_body(pageSize=12)).json()["jobId"]
    shared_vendor.clock.seconds += 60
    path = f"{AGGREGATES}/jobs/{job}/results"
    first = shared_vendor.get(path).json()
    last = shared_vendor.get(path, cursor=first["cursor"]).json()
    assert [len(page["results"]) for page in (first, last)] == [12, 12]
    assert "cursor" not in last


def test_delete_cancels_running_and_removes_finished_jobs(shared_vendor: Vendor) -> None:
    path = f"{AGGREGATES}/jobs/{shared_vendor.post(f'{AGGREGATES}/jobs', aggregate_body()).json()['jobId']}"
    answer = shared_vendor.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    shared_vendor.clock.seconds += 60
    assert shared_vendor.get(path).json()["state"] == "CANCELLED"
    assert shared_vendor.get(f"{path}/results").status_code == 400
    finished = f"{AGGREGATES}/jobs/{shared_vendor.post(f'{AGGREGATES}/jobs', aggregate_body()).json()['jobId']}"
    shared_vendor.clock.seconds += 60
    assert shared_vendor.get(finished).json()["state"] == "FULFILLED"
    assert shared_vendor.delete(finished).status_code == 204
    assert shared_vendor.get(finished).status_code == 404
    assert shared_vendor.delete(finished).status_code == 404


def test_results_of_unfinished_and_expired_jobs_follow_settings() -> None:
    settings = SimulatorSettings(job_lifetime_seconds=100, genesys_not_ready_status=409, genesys_expired_status=410)
    with open_vendor(settings) as vendor:
        path = f"{AGGREGATES}/jobs/{vendor.post(f'{AGGREGATES}/jobs', aggregate_body()).json()['jobId']}"
        assert vendor.get(f"{path}/results").status_code == 409
        vendor.clock.seconds += 100
        assert vendor.get(path).json()["state"] == "EXPIRED"
        assert vendor.get(f"{path}/results").status_code == 410


def test_availability_returns_the_watermark(shared_vendor: Vendor) -> None:
    answer = shared_vendor.get(AVAILABILITY)
    assert (answer.status_code, answer.json()) == (200, {"dataAvailabilityDate": "2024-06-12T09:58:00.000Z"})
    assert shared_vendor.get(f"{AGGREGATES}/jobs/nonsense").status_code == 404


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"metrics": ["nonsense"]}, "invalid.value", "Value [nonsense] is not valid for field type [metrics]"),
        ({"metrics": []}, "bad.request", "metrics"),
        ({"metrics": None}, "bad.request", "metrics"),
        ({"interval": None}, "bad.request", "interval"),
        ({"groupBy": ["queueID"]}, "invalid.value", "queueID"),
        ({"interval": "yesterday/today"}, "invalid.date", "Dates must be specified as ISO-8601 strings"),
        ({"interval": "2024-06-11T00:00:00Z/2024-06-10T00:00:00Z"}, "invalid.date", "no later"),
        ({"granularity": "1h"}, "invalid.value", "granularity"),
        ({"granularity": "PT0S"}, "invalid.value", "granularity"),
        ({"granularity": "P"}, "invalid.value", "granularity"),
        ({"granularity": "P1DT"}, "invalid.value", "granularity"),
        ({"granularity": "PT1S", "interval": "2024-01-01T00:00:00Z/2024-06-11T00:00:00Z"}, "bad.request", "buckets"),
        ({"timeZone": "Mars/Olympus"}, "invalid.value", "Mars/Olympus"),
        ({"views": [{"target": "tHandle", "name": "x", "function": "rangeBound"}]}, "bad.request", "not implemented"),
        ({"queryType": "topN"}, "bad.request", "not implemented"),
        ({"limit": 3}, "bad.request", "not implemented"),
        ({"alternateTimeDimension": "eventTime"}, "bad.request", "not implemented"),
        ({"alternateTimeDimension": "creation"}, "invalid.value", "alternateTimeDimension"),
        ({"pageSize": 10}, "invalid.property", "pageSize"),
        ({"surprise": True}, "bad.request", "surprise"),
        ({"filter": {"predicates": []}}, "bad.request", "filter.type"),
        ({"filter": {"type": "and", "predicates": [{"value": "x"}]}}, "constraint.validation", "dimension"),
        ({"filter": {"type": "and", "predicates": [_predicate("queueId")]}}, "constraint.validation", "value"),
        ({"filter": {"type": "and", "predicates": [_predicate("nonsense", "x")]}}, "invalid.value", "nonsense"),
        ({"filter": {"type": "and", "predicates": [_predicate("mediaType", "fax")]}}, "invalid.value", "fax"),
        ({"filter": {"type": "and", "predicates": [_predicate("queueId", range={"gt": 1})]}}, "bad.request", "range"),
        ({"filter": {"type": "and", "predicates": [{"metric": "tTalk"}]}}, "bad.request", "not implemented"),
        ({"filter": {"type": "and", "clauses": [{"type": "or", "predicates": []}]}}, "bad.request", "filter.clauses"),
    ],
)
def test_invalid_query_is_400_with_the_vendors_message(
    shared_vendor: Vendor, changes: Json, code: str, message: str
) -> None:
    answer = shared_vendor.post(f"{AGGREGATES}/query", aggregate_body(**changes))
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (400, 400, code)
    assert message in body["message"]
    assert body["contextId"] == answer.headers["ININ-Correlation-Id"]


@pytest.mark.parametrize("page_size", [0, 1001, -1])
def test_invalid_page_size_of_a_job_is_400(shared_vendor: Vendor, page_size: int) -> None:
    assert shared_vendor.post(f"{AGGREGATES}/jobs", aggregate_body(pageSize=page_size)).status_code == 400


def test_responses_have_unique_correlation_ids_and_no_quota(shared_vendor: Vendor) -> None:
    answers = [
        shared_vendor.get(AVAILABILITY),
        shared_vendor.get("/api/v2/unknown"),
        shared_vendor.post(f"{AGGREGATES}/query", {}),
        shared_vendor.post(f"{AGGREGATES}/query", aggregate_body()),
        shared_vendor.http.get(AVAILABILITY),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 200, 401]
    assert len({answer.headers["ININ-Correlation-Id"] for answer in answers}) == len(answers)
    assert not any("x-ratelimit-remaining" in answer.headers for answer in answers)


def test_body_over_512000_bytes_is_413(shared_vendor: Vendor) -> None:
    content = b'{"interval": "' + b"x" * 512_000 + b'"}'
    headers = shared_vendor.headers | {"Content-Type": "application/json"}
    answer = shared_vendor.http.post(f"{AGGREGATES}/query", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "request.entity.too.large")
    assert "512000" in answer.json()["message"]


def test_both_platforms_agree_with_the_truth(shared_vendor: Vendor) -> None:
    truth = shared_vendor.truth(DAY, granularity="PT1H", groupBy="queueId,mediaType")
    rows = shared_vendor.rows(columns=["offered"])
    # The truth also has the milliseconds of each fact; an offer has none.
    assert [{**row, "offeredMs": 0} for row in rows] == truth
    assert offered(shared_vendor.aggregate()) == sum(row["offered"] for row in truth) > 5000

"""Tests of details: they agree with the aggregates of the same calls and follow the vendor's semantics."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import AGGREGATES, DAY, Json, SettableClock, Vendor, open_vendor

ANALYTICS = "/api/v2/analytics"
CONVERSATIONS = f"{ANALYTICS}/conversations/details"
USERS = f"{ANALYTICS}/users/details"
START, END = DAY.split("/")
METRICS = ["nOffered", "nConnected", "nTransferred", "nOverSla", "tAnswered", "tAbandon", "tWait", "tTalk", "tHeld",
           "tAcw", "tHandle"]  # fmt: skip

#: Its evening extends beyond midnight UTC.
SMALL: Json = {
    "conversations_per_working_day": 1200,
    "organisation_zone": "America/New_York",
    "token_lifetime_seconds": 10_000_000.0,
}


@pytest.fixture(scope="module")
def _small_vendor() -> Iterator[Vendor]:
    with open_vendor(SimulatorSettings(**SMALL, genesys_rate_limit=100_000)) as vendor:
        yield vendor


@pytest.fixture
def shared_vendor(_small_vendor: Vendor) -> Vendor:
    _small_vendor.clock.seconds = SettableClock().seconds
    return _small_vendor


def _job(vendor: Vendor, base: str, **body: Any) -> str:
    answer = vendor.post(f"{base}/jobs", {"interval": DAY, **body})
    assert answer.status_code == 202, answer.text
    assert set(answer.json()) == {"jobId"}
    vendor.clock.seconds += 3600
    path = f"{base}/jobs/{answer.json()['jobId']}"
    assert vendor.get(path).json()["state"] == "FULFILLED"
    return path


def _entries(vendor: Vendor, path: str, field: str, **params: Any) -> Iterator[Json]:
    cursor: Json = {}
    while True:
        page = vendor.get(f"{path}/results", **params, **cursor).json()
        assert page["dataAvailabilityDate"]
        yield from page.get(field, [])
        if "cursor" not in page:
            return
        cursor = {"cursor": page["cursor"]}


def _conversations(vendor: Vendor, **body: Any) -> list[Json]:
    return list(_entries(vendor, _job(vendor, CONVERSATIONS, **body), "conversations"))


def _metrics(conversations: list[Json], interval: str) -> Counter[tuple[str, str, str, str, str]]:
    """Return sum and count of the metrics emitted in the interval, by queue, medium and user."""
    start, end = (f"{edge.removesuffix('Z')}.000Z" for edge in interval.split("/"))
    totals: Counter[tuple[str, str, str, str, str]] = Counter()
    for conversation in conversations:
        for participant in conversation["participants"]:
            for session in participant["sessions"]:
                queue = session["segments"][0].get("queueId", "")
                for metric in session.get("metrics", []):
                    if start <= metric["emitDate"] < end:
                        key = (queue, session["mediaType"], participant.get("userId", ""), metric["name"])
                        totals[*key, "sum"] += metric["value"]
                        totals[*key, "count"] += 1
    return +totals


def test_details_add_up_to_the_aggregates(shared_vendor: Vendor) -> None:
    conversations = _conversations(shared_vendor)
    counted = _metrics(conversations, DAY)
    results = shared_vendor.aggregate(metrics=METRICS, granularity=None, groupBy=["queueId", "mediaType", "userId"])
    expected: Counter[tuple[str, str, str, str, str]] = Counter()
    for result in results:
        group = result["group"]
        for entry in result["data"][0]["metrics"]:
            key = (group["queueId"], group["mediaType"], group.get("userId", ""), entry["metric"])
            expected[*key, "count"] = entry["stats"]["count"]
            if "sum" in entry["stats"]:
                expected[*key, "sum"] = int(entry["stats"]["sum"])
    compared = {key: value for key, value in counted.items() if key in expected}
    assert compared == +expected
    assert len(expected) > 500


def test_flow_details_add_up_to_flow_aggregates(shared_vendor: Vendor) -> None:
    flows: Counter[str] = Counter()
    for conversation in _conversations(shared_vendor):
        for participant in conversation["participants"]:
            for session in participant["sessions"]:
                for metric in session.get("metrics", []):
                    if metric["name"] == "tFlow" and START <= metric["emitDate"][:19] + "Z" < END:
                        flows[session["flow"]["flowId"]] += metric["value"]
    body = {"interval": DAY, "groupBy": ["flowId"], "metrics": ["nFlow", "tFlow"]}
    results = shared_vendor.post(f"{ANALYTICS}/flows/aggregates/query", body).json()["results"]
    aggregated = {result["group"].get("flowId"): result["data"][0]["metrics"][1]["stats"]["sum"] for result in results}
    assert aggregated == dict(flows)
    assert len(aggregated) == 3


def test_job_returns_overlaps_and_query_returns_starts(shared_vendor: Vendor) -> None:
    hour, next_hour = "2024-06-10T15:00:00Z/2024-06-10T16:00:00Z", "2024-06-10T16:00:00Z/2024-06-10T17:00:00Z"
    first, second = (_conversations(shared_vendor, interval=interval) for interval in (hour, next_hour))
    in_both = {row["conversationId"] for row in first} & {row["conversationId"] for row in second}
    assert in_both
    for row in first:
        if row["conversationId"] in in_both:
            assert row["conversationStart"] < "2024-06-10T16:00:00.000Z" < row.get("conversationEnd", "later")
    midnight = "2024-06-11T00:00:00Z/2024-06-11T00:30:00Z"
    overlapping = _conversations(shared_vendor, interval=midnight)
    started = _conversations(shared_vendor, interval=midnight, startOfDayIntervalMatching=True)
    assert [row for row in overlapping if row["conversationStart"] >= "2024-06-11"] == started
    assert min(row["conversationStart"] for row in overlapping) < "2024-06-08", "one has lasted for days"
    assert len(started) < len(overlapping)
    page = shared_vendor.post(
        f"{CONVERSATIONS}/query", {"interval": midnight, "paging": {"pageSize": 100, "pageNumber": 1}}
    ).json()
    assert page["totalHits"] == len(started)
    for row in started:
        row["participants"][0].pop("attributes")
    assert page["conversations"] == started


def test_job_pages_have_the_requested_size(shared_vendor: Vendor) -> None:
    path = _job(shared_vendor, CONVERSATIONS)
    ids = [row["conversationId"] for row in _entries(shared_vendor, path, "conversations")]
    paged = [row["conversationId"] for row in _entries(shared_vendor, path, "conversations", pageSize=177)]
    assert paged == ids
    assert len(set(ids)) == len(ids) > 1000
    assert shared_vendor.get(f"{path}/results", pageSize=1001).status_code == 400
    assert len(_conversations(shared_vendor, limit=5)) == 5


def test_empty_page_has_no_list(shared_vendor: Vendor) -> None:
    no_match = [{"type": "and", "predicates": [{"dimension": "queueId", "value": "no such queue"}]}]
    path = _job(shared_vendor, CONVERSATIONS, segmentFilters=no_match)
    assert set(shared_vendor.get(f"{path}/results").json()) == {"dataAvailabilityDate"}
    answer = shared_vendor.post(f"{CONVERSATIONS}/query", {"interval": DAY, "segmentFilters": no_match})
    assert answer.json() == {"totalHits": 0}


def test_conversation_is_open_until_its_end_is_visible(shared_vendor: Vendor) -> None:
    now = "2024-06-12T13:00:00Z/2024-06-12T17:00:00Z"
    shared_vendor.clock.seconds += 6 * 3600
    answer = shared_vendor.post(f"{CONVERSATIONS}/jobs", {"interval": now})
    submitted_at = shared_vendor.clock.seconds
    shared_vendor.clock.seconds += 3600
    path = f"{CONVERSATIONS}/jobs/{answer.json()['jobId']}"
    rows = list(_entries(shared_vendor, path, "conversations"))
    still_open = [row for row in rows if "conversationEnd" not in row]
    assert 0 < len(still_open) < len(rows)
    assert any(len(row["participants"]) == 2 for row in still_open), "a waiting conversation has no agent yet"
    shared_vendor.clock.seconds = submitted_at + 20_000
    later = {row["conversationId"]: row for row in _conversations(shared_vendor, interval=now)}
    threads = {row["conversationId"] for row in still_open if "conversationEnd" not in later[row["conversationId"]]}
    assert 0 < len(threads) < len(still_open) / 2
    assert {later[row]["participants"][0]["sessions"][0]["mediaType"] for row in threads} == {"email"}
    shared_vendor.clock.seconds = submitted_at + 8 * 86_400
    later = {row["conversationId"]: row for row in _conversations(shared_vendor, interval=now)}
    assert all("conversationEnd" in later[row["conversationId"]] for row in still_open)
    ended = [{"type": "and", "predicates": [{"dimension": "conversationEnd", "operator": "exists"}]}]
    assert len(_conversations(shared_vendor, interval=now, conversationFilters=ended)) == len(later)


def test_orphans_never_get_an_end() -> None:
    with open_vendor(SimulatorSettings(**SMALL, orphan_share=0.05)) as vendor:
        rows = _conversations(vendor)
        ended = [{"type": "and", "predicates": [{"dimension": "conversationEnd", "operator": "exists"}]}]
        with_end = _conversations(vendor, conversationFilters=ended)
    orphans = [row for row in rows if "conversationEnd" not in row]
    assert 0 < len(orphans) < 0.1 * len(rows)
    assert len(with_end) == len(rows) - len(orphans)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"interval": "2024-01-01T00:00:00Z/2024-03-01T00:00:00Z"}, "does not exceed 31 days"),
        ({"interval": "yesterday"}, "ISO-8601"),
        ({"order": "sideways"}, "order"),
        ({"paging": {"pageSize": 10}}, "paging"),
        ({"segmentFilters": [{"type": "and", "predicates": [{"dimension": "shoeSize", "value": "9"}]}]}, "shoeSize"),
        ({"surveyFilters": [{"type": "and"}]}, "surveyFilters is known to the vendor"),
    ],
)
def test_unknown_job_field_is_a_400_that_names_it(shared_vendor: Vendor, body: Json, message: str) -> None:
    answer = shared_vendor.post(f"{CONVERSATIONS}/jobs", {"interval": DAY, **body})
    assert answer.status_code == 400
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    ("paging", "message"),
    [
        ({"pageSize": 101, "pageNumber": 1}, "no more than 100"),
        ({"pageSize": 100, "pageNumber": 1001}, "Pagination may not exceed 100000 results"),
    ],
)
def test_query_paging_is_limited_like_the_vendors(shared_vendor, paging: Json, message: str) -> None:
    answer = shared_vendor.post(f"{CONVERSATIONS}/query", {"interval": DAY, "paging": paging})
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    deepest = {"interval": DAY, "paging": {"pageSize": 100, "pageNumber": 1000}}
    assert shared_vendor.post(f"{CONVERSATIONS}/query", deepest).status_code == 200


def test_presence_details_add_up_to_user_aggregates(shared_vendor: Vendor) -> None:
    users = list(_entries(shared_vendor, _job(shared_vendor, USERS), "userDetails"))
    assert len(users) == 30
    metrics = ["tSystemPresence", "tAgentRoutingStatus"]
    body = {"interval": DAY, "granularity": "PT1H", "groupBy": ["userId"], "metrics": metrics}
    answer = shared_vendor.post(f"{ANALYTICS}/users/aggregates/query", body).json()
    from_aggregates: Counter[tuple[str, str]] = Counter()
    for result in answer["results"]:
        for bucket in result["data"]:
            for entry in bucket["metrics"]:
                from_aggregates[result["group"]["userId"], entry["qualifier"]] += int(entry["stats"]["sum"])
    from_details: Counter[tuple[str, str]] = Counter()
    for user in users:
        for record in (*user["primaryPresence"], *user["routingStatus"]):
            state = record.get("systemPresence") or record["routingStatus"]
            start, end = max(_ms(record["startTime"]), _ms(START)), min(_ms(record["endTime"]), _ms(END))
            from_details[user["userId"], state] += end - start
    assert from_aggregates == +from_details
    assert {state for _, state in from_aggregates} >= {"ON_QUEUE", "OFFLINE", "INTERACTING", "IDLE", "OFF_QUEUE"}
    day_ms = 86_400_000
    assert sum(from_aggregates.values()) == 2 * 30 * day_ms
    assert set(answer["systemToOrganizationMappings"]) >= {"ON_QUEUE", "OFFLINE"}


def _ms(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "has_end"), [("2024-06-09T12:00:30+00:00", False), ("2024-06-10T20:00:30+00:00", True)]
)
def test_weekend_is_one_stretch_whose_end_is_known_on_monday(shared_vendor: Vendor, now: str, has_end: bool) -> None:
    shared_vendor.clock.seconds = SettableClock(now).seconds
    stretches: dict[str, list[Json]] = {}
    for day in ("2024-06-08T00:00:00Z/2024-06-08T04:00:00Z", "2024-06-09T00:00:00Z/2024-06-10T00:00:00Z"):
        body = {"interval": day, "paging": {"pageSize": 100, "pageNumber": 1}}
        for user in shared_vendor.post(f"{USERS}/query", body).json()["userDetails"]:
            stretches.setdefault(user["userId"], []).append(user["primaryPresence"][-1])
    off_duty = [of_friday for of_friday, of_sunday in stretches.values() if of_friday == of_sunday]
    assert len(off_duty) == 20, "the others work on weekends"
    for stretch in off_duty:
        assert (stretch["systemPresence"], "endTime" in stretch) == ("OFFLINE", has_end)
        assert not has_end or _ms(stretch["endTime"]) - _ms(stretch["startTime"]) > 48 * 3_600_000


def test_stretch_is_the_same_whatever_the_interval(shared_vendor: Vendor) -> None:
    shared_vendor.clock.seconds = SettableClock("2024-06-25T12:00:00+00:00").seconds
    days = [f"2024-06-{day:02}T00:00:00Z/2024-06-{day + 1:02}T00:00:00Z" for day in range(3, 24)]
    by_day = [
        (user["userId"], *sorted(record.items()))
        for day in days
        for user in _entries(shared_vendor, _job(shared_vendor, USERS, interval=day), "userDetails")
        for record in user["primaryPresence"]
    ]
    whole = [
        (user["userId"], *sorted(record.items()))
        for user in _entries(
            shared_vendor,
            _job(shared_vendor, USERS, interval="2024-06-03T00:00:00Z/2024-06-24T00:00:00Z"),
            "userDetails",
        )
        for record in user["primaryPresence"]
    ]
    assert len(set(whole)) == len(whole)
    assert set(by_day) == set(whole)


def test_ongoing_state_has_no_end(shared_vendor: Vendor) -> None:
    today = "2024-06-12T00:00:00Z/2024-06-13T00:00:00Z"
    body = {"interval": today, "paging": {"pageSize": 100, "pageNumber": 1}}
    users = shared_vendor.post(f"{USERS}/query", body).json()["userDetails"]
    for user in users:
        for records in (user["primaryPresence"], user["routingStatus"]):
            assert ["endTime" in record for record in records] == [True] * (len(records) - 1) + [False]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (f"{USERS}/query", {"interval": "2024-05-01T00:00:00Z/2024-05-10T00:00:00Z"}, "7 days"),
        (f"{ANALYTICS}/users/aggregates/query", {"metrics": ["tSystemPresence"], "groupBy": ["queueId"]}, "queueId"),
        (f"{ANALYTICS}/users/aggregates/query", {"metrics": ["tTalk"]}, "tTalk"),
        (f"{ANALYTICS}/users/aggregates/query", {"metrics": ["tSystemPresence"], "granularity": "PT1M"}, "granularity"),
        (
            f"{ANALYTICS}/users/aggregates/query",
            {
                "metrics": ["tSystemPresence"],
                "filter": {"type": "or", "predicates": [{"dimension": "userId", "value": str(n)} for n in range(101)]},
            },
            "at most 100",
        ),
        (f"{AGGREGATES}/query", {"metrics": ["nOffered"], "views": [{}] * 11}, "at most 10"),
    ],
)
def test_limits_of_other_families_are_enforced(shared_vendor: Vendor, path: str, body: Json, message: str) -> None:
    answer = shared_vendor.post(path, {"interval": DAY, **body})
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_restatement_changes_details_and_aggregates_alike() -> None:
    with open_vendor(SimulatorSettings(**SMALL)) as vendor:
        before = vendor.aggregate(metrics=["nOffered", "tTalk"], granularity=None, groupBy=None)
        answer = vendor.http.post("/simulator/restatements", json={"day": "2024-06-10"})
        assert answer.status_code == 204
        after = vendor.aggregate(metrics=["nOffered", "tTalk"], granularity=None, groupBy=None)
        counted = _metrics(_conversations(vendor), DAY)
    assert _sums(before, "nOffered", "count") == _sums(after, "nOffered", "count")
    assert _sums(before, "tTalk", "sum") < _sums(after, "tTalk", "sum")
    talked = sum(value for key, value in counted.items() if key[3:] == ("tTalk", "sum"))
    assert talked == _sums(after, "tTalk", "sum")


def _sums(results: list[Json], metric: str, statistic: str) -> float:
    return sum(
        entry["stats"][statistic]
        for result in results
        for bucket in result["data"]
        for entry in bucket["metrics"]
        if entry["metric"] == metric
    )

"""Which overrides a query may have, and the errors of queries that a report cannot answer."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.errors import InvalidInterval, InvalidQuery
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.query_request import NO_OVERRIDES, QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.query.declared import declared

REPORT = declared(granularity="PT15M")
DAY = "2026-01-05/2026-01-06"


def resolve(report: Report = REPORT, interval: str | Interval = DAY, **overrides: Any) -> QueryRequest:
    if "filters" in overrides:
        overrides["filters"] = Filter.parse(overrides["filters"])
    columns = (GenesysAdapter if report.platform == "genesys" else ReportDataAdapter).columns(report)
    return resolve_request(report, interval, QueryOverrides(**overrides), columns)


def only(dimension: str, *values: str | None) -> dict[str, Any]:
    return {"predicates": [{"dimension": dimension, "values": list(values)}]}


def test_query_without_overrides_is_the_report_itself():
    assert resolve().requested is REPORT
    respelled = resolve(
        group_by=("mediaType", "queue_id"), metrics=("answered", "offered", "answered"), granularity="PT15M",
        time_zone="Europe/Berlin", filters={"type": "or"},
    )  # fmt: skip
    assert not respelled.is_rolled_up
    assert respelled == resolve_request(REPORT, Interval.parse(DAY, REPORT.zone), NO_OVERRIDES, ())


def test_interval_is_read_in_the_requested_zone():
    days = [resolve(interval="2026-03-29/P1D", granularity="P1D", time_zone=zone).interval for zone in (None, "UTC")]
    assert [str(day) for day in days] == [
        "2026-03-28T23:00:00Z/2026-03-29T22:00:00Z",
        "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z",
    ]


@given(st.randoms(use_true_random=False))
def test_spellings_of_a_narrowed_query_share_a_key(rng):
    def one_of(*spelled: Any) -> Any:
        return rng.choice(spelled)

    found = resolve(
        interval=one_of(
            "2026-01-05/2026-01-07", "2026-01-05/P2D", "PT48H/2026-01-07", "2026-01-04T23:00:00Z/2026-01-06T23:00:00Z",
            "2026-01-05T04:30:00+05:30/2026-01-07T04:30:00+05:30",
        ),
        granularity=one_of("PT1H", "PT60M"),
        group_by=one_of(("queueId",), ("queue_id", "queueId")),
        metrics=one_of(("offered",), ("offered", "offered")),
        time_zone=one_of(None, "Europe/Berlin", "Arctic/Longyearbyen", "Europe/Stockholm"),
        filters=one_of(
            only("queueId", "b", "a"),
            {"type": "or", "predicates": [*only("queueId", "a")["predicates"], *only("queue_id", "b")["predicates"]]},
            {"type": "not", "clauses": [{"predicates": [{"dimension": "queueId", "operator": "notIn", "values": ["a", "b"]}]}]},
        ),
    )  # fmt: skip
    exact = declared(granularity="PT1H", group_by=["queueId"], metrics=["offered"], filters=only("queueId", "a", "b"))
    assert found.cache_key("t", "5s") == resolve_request(exact, "2026-01-05/P2D", NO_OVERRIDES, ()).cache_key("t", "5s")


@pytest.mark.parametrize(
    ("overrides", "field", "message"),
    [
        ({"group_by": ("queue",)}, "group_by", "did you mean queueId\\?.*queue_hour has mediaType, queueId"),
        ({"group_by": ("queueId\0",)}, "group_by", "unknown name"),
        ({"metrics": ("handled",)}, "metrics", "queue_hour has answered, offered"),
        ({"metrics": ()}, "metrics", "is empty"),
        ({"granularity": "PT20M"}, "granularity", "do not divide PT20M"),
        ({"granularity": "PT5M"}, "granularity", "a multiple of PT15M"),
        ({"granularity": "hourly"}, "granularity", "not a calendar step"),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "IANA"),
        ({"filters": only("userId", "u")}, "filters", "can be filtered by mediaType, queueId"),
    ],
)
def test_invalid_field_error_names_the_alternatives(overrides, field, message):
    with pytest.raises(InvalidQuery, match=message) as raised:
        resolve(**overrides)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("2026-01-06/2026-01-05", "reversed"),
        ("2026-01-06/2026-01-06", "empty"),
        ("2026-01-06/..", "open"),
        ("2026-01-06T00:00:00Z", "open"),
        ("2026-01-06T00:05:00Z/2026-01-06T01:00:00Z", "ask for 2026-01-06T00:00:00Z/2026-01-06T01:00:00Z"),
        ("1950-01-01/2026-01-01", "more than 100,000 buckets"),
        ("2026-01-06\0/P1D", "not an ISO 8601"),
        (f"{'9' * 10_000}/P1D", "not an ISO 8601"),
    ],
)
def test_invalid_interval_is_refused(interval, message):
    with pytest.raises(InvalidInterval, match=message) as raised:
        resolve(interval=interval)
    assert len(str(raised.value)) < 400


def test_filter_contradicting_the_reports_own_is_refused():
    report = declared(filters=only("queueId", "a"))
    with pytest.raises(InvalidQuery, match=r"filters: .*contradicts.*its own filter"):
        resolve(report, filters=only("queueId", "b"))
    assert not resolve(report, filters=only("queueId", "a", "b")).is_rolled_up


GENESYS = declared(
    platform="genesys", volume_metric=None, query_type="conversations", metrics=["nOffered", "tHandle", "nConversations", "oMediaCount"],
    group_by=["queueId", "requestedRoutingSkillId"], granularity="PT30M",
)  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"metrics": ("nConversations",), "granularity": "PT1H"}, "metrics"),
        ({"metrics": ("oMediaCount",), "group_by": ("requestedRoutingSkillId",)}, "metrics"),
        ({"metrics": ("nOffered",), "group_by": ("queueId",)}, "group_by"),
        ({"metrics": ("nOffered",), "filters": only("requestedRoutingSkillId", "s", "t")}, "filters"),
    ],
)
def test_distinct_counts_and_multivalued_dimensions_never_roll_up(overrides, field):
    with pytest.raises(InvalidQuery) as raised:
        resolve(GENESYS, **overrides)
    assert raised.value.field == field


def test_any_metric_is_allowed_without_folding():
    assert resolve(GENESYS, metrics=("nConversations",)).is_rolled_up
    skill = only("requestedRoutingSkillId", "s")
    assert resolve(GENESYS, metrics=("nConversations",), group_by=("queueId",), filters=skill).is_rolled_up


def test_other_zone_needs_aligned_buckets():
    assert resolve(granularity="P1D", time_zone="Asia/Kolkata").requested.time_zone == "Asia/Kolkata"
    with pytest.raises(InvalidQuery, match="starts at 2026-01-04T18:30:00Z, which cuts one of PT1H in Europe/Berlin"):
        resolve(declared(), granularity="P1D", time_zone="Asia/Kolkata")


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Europe/Berlin", "2026-06-01", 24),
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("America/Sao_Paulo", "2018-02-17", 25),
        ("America/Sao_Paulo", "2026-11-01", 24),
    ],
)
def test_day_has_23_24_or_25_hours(zone, day, hours):
    found = resolve(interval=f"{day}/P1D", granularity="PT1H", time_zone=zone)
    assert found.interval.length == timedelta(hours=hours)
    assert resolve(interval=f"{day}/P1D", granularity="P1D", time_zone=zone).interval == found.interval


def test_order_of_names_does_not_matter():
    names = ["offered", "answered", "abandoned"]
    report = declared(metrics=names)
    rng = random.Random(3)
    found = {resolve(report, metrics=tuple(rng.sample(names, 2) + names)) for _ in range(20)}
    assert {each.requested for each in found} == {report}
    assert datetime(2026, 1, 5, tzinfo=UTC) > found.pop().interval.start

"""What a question may narrow of a declared report, and what it is told when it cannot be answered."""

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


def ask(report: Report = REPORT, interval: str | Interval = DAY, **changes: Any) -> QueryRequest:
    if "filters" in changes:
        changes["filters"] = Filter.parse(changes["filters"])
    columns = (GenesysAdapter if report.platform == "genesys" else ReportDataAdapter).columns(report)
    return resolve_request(report, interval, QueryOverrides(**changes), columns)


def only(dimension: str, *values: str | None) -> dict[str, Any]:
    return {"predicates": [{"dimension": dimension, "values": list(values)}]}


def test_what_says_nothing_else_is_the_report_itself():
    assert ask().requested is REPORT
    spelled = ask(
        group_by=("mediaType", "queue_id"), metrics=("answered", "offered", "answered"), granularity="PT15M",
        time_zone="Europe/Berlin", filters={"type": "or"},
    )  # fmt: skip
    assert not spelled.is_rolled_up
    assert spelled == resolve_request(REPORT, Interval.parse(DAY, REPORT.zone), NO_OVERRIDES, ())


def test_ends_without_an_offset_and_durations_are_read_in_the_zone_that_is_asked_for():
    days = [ask(interval="2026-03-29/P1D", granularity="P1D", time_zone=zone).interval for zone in (None, "UTC")]
    assert [str(day) for day in days] == [
        "2026-03-28T23:00:00Z/2026-03-29T22:00:00Z",
        "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z",
    ]


@given(st.randoms(use_true_random=False))
def test_every_spelling_of_a_narrowed_question_has_one_key(chance):
    def one_of(*spelled: Any) -> Any:
        return chance.choice(spelled)

    found = ask(
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
    ("changes", "field", "told"),
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
def test_what_a_report_cannot_answer_is_told_by_field_with_what_there_is(changes, field, told):
    with pytest.raises(InvalidQuery, match=told) as raised:
        ask(**changes)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("interval", "told"),
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
def test_an_interval_that_cannot_be_answered_is_told(interval, told):
    with pytest.raises(InvalidInterval, match=told) as raised:
        ask(interval=interval)
    assert len(str(raised.value)) < 400


def test_a_filter_that_contradicts_the_reports_own_is_told():
    report = declared(filters=only("queueId", "a"))
    with pytest.raises(InvalidQuery, match=r"filters: .*contradicts.*its own filter"):
        ask(report, filters=only("queueId", "b"))
    assert not ask(report, filters=only("queueId", "a", "b")).is_rolled_up


GENESYS = declared(
    platform="genesys", volume_metric=None, query_type="conversations", metrics=["nOffered", "tHandle", "nConversations", "oMediaCount"],
    group_by=["queueId", "requestedRoutingSkillId"], granularity="PT30M",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metrics": ("nConversations",), "granularity": "PT1H"}, "metrics"),
        ({"metrics": ("oMediaCount",), "group_by": ("requestedRoutingSkillId",)}, "metrics"),
        ({"metrics": ("nOffered",), "group_by": ("queueId",)}, "group_by"),
        ({"metrics": ("nOffered",), "filters": only("requestedRoutingSkillId", "s", "t")}, "filters"),
    ],
)
def test_distinct_counts_and_dimensions_of_several_values_are_never_rolled_up(changes, field):
    with pytest.raises(InvalidQuery) as raised:
        ask(GENESYS, **changes)
    assert raised.value.field == field


def test_what_need_not_be_folded_may_be_asked_of_any_metric():
    assert ask(GENESYS, metrics=("nConversations",)).is_rolled_up
    skill = only("requestedRoutingSkillId", "s")
    assert ask(GENESYS, metrics=("nConversations",), group_by=("queueId",), filters=skill).is_rolled_up


def test_another_zone_is_answered_where_its_days_are_made_of_kept_buckets():
    assert ask(granularity="P1D", time_zone="Asia/Kolkata").requested.time_zone == "Asia/Kolkata"
    with pytest.raises(InvalidQuery, match="starts at 2026-01-04T18:30:00Z, which cuts one of PT1H in Europe/Berlin"):
        ask(declared(), granularity="P1D", time_zone="Asia/Kolkata")


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
def test_a_day_has_as_many_hours_as_the_clocks_give_it(zone, day, hours):
    found = ask(interval=f"{day}/P1D", granularity="PT1H", time_zone=zone)
    assert found.interval.length == timedelta(hours=hours)
    assert ask(interval=f"{day}/P1D", granularity="P1D", time_zone=zone).interval == found.interval


def test_shuffled_names_do_not_matter_to_what_is_asked():
    names = ["offered", "answered", "abandoned"]
    report = declared(metrics=names)
    chance = random.Random(3)
    found = {ask(report, metrics=tuple(chance.sample(names, 2) + names)) for _ in range(20)}
    assert {each.requested for each in found} == {report}
    assert datetime(2026, 1, 5, tzinfo=UTC) > found.pop().interval.start

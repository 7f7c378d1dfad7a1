"""Tests of query payloads of both vendors: equal meanings give equal queries, and errors name the field."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.keys.spellings import random_queries, spell
from cache_pipeline.errors import InvalidInterval, InvalidQuery, QueryError, UnknownReport
from cache_pipeline.query.payload import find_report_for
from cache_pipeline.query.query_request import QueryRequest
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.query_payload import read_genesys
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.query_payload import read_guide
from cache_pipeline_tests.query.declared import declared

QUARTERS = declared(name="quarters", granularity="PT15M", metrics=["offered", "answered", "abandoned", "handleMs"])
DAYS = declared(name="days", granularity="P1D", group_by=["queueId"])
CALLS = declared(
    name="calls", platform="genesys", query_type="conversations", metrics=["nOffered", "tHandle"], volume_metric=None,
    granularity="PT30M", time_zone="UTC",
)  # fmt: skip
REPORTS = {report.name: report for report in (QUARTERS, DAYS, CALLS)}
DAY = "2026-01-05T00:00:00+01:00/2026-01-06T00:00:00+01:00"


def columns(report: Report) -> tuple[Column, ...]:
    return (GenesysAdapter if report.platform == "genesys" else ReportDataAdapter).columns(report)


def guide(**fields: Any) -> QueryRequest:
    body = {"reportId": "queue-performance", "interval": DAY, "timeGrouping": "byHour"} | fields
    return find_report_for(read_guide({k: v for k, v in body.items() if v is not None}), REPORTS, columns)


def genesys(**fields: Any) -> QueryRequest:
    body = {"interval": "2026-01-05T00:00:00Z/2026-01-06T00:00:00Z", "granularity": "PT1H", "metrics": ["nOffered"]}
    return find_report_for(read_genesys({**body, **fields}, "conversations"), REPORTS, columns)


def test_interval_offset_does_not_change_the_key():
    """The guide's own example (G6): its two intervals mean the same."""
    keys = {
        guide(interval=interval, requestId=number, metadata={"user": number}).cache_key("t", "15m")
        for number, interval in enumerate([
            "2023-10-01T00:00:00Z/2023-10-02T00:00:00Z", "2023-10-01T07:00:00+07:00/2023-10-02T07:00:00+07:00",
            "2023-10-01T00:00:00Z/PT24H", "PT24H/2023-10-02T02:00:00+02:00",
        ])
    }  # fmt: skip
    assert len(keys) == 1


@given(st.integers(0, 10**9))
def test_spellings_share_a_key_and_meanings_do_not(seed: int):
    chance = random.Random(seed)
    reports = {"quarters": QUARTERS}
    one, other = random_queries(2, chance)
    keys = [{find_report_for(read_guide(spell(m, chance)), reports, columns).cache_key("t", "5s") for _ in range(5)}
            for m in (one, other)]  # fmt: skip
    assert [len(each) for each in keys] == [1, 1]
    assert keys[0] != keys[1]


def test_report_with_the_least_roll_up_answers():
    assert guide(timeGrouping="byDay").declared is DAYS
    assert guide(timeGrouping="byDay", groupBy=["mediaType"]).declared is QUARTERS
    assert guide(timeGrouping="byHour").declared is QUARTERS
    assert guide(reportId="quarters", timeGrouping="byDay").declared is QUARTERS
    assert guide(timeGrouping="byDay", columns=["handleMs"], groupBy=["queueId"]).declared is QUARTERS


def test_ambiguous_report_asks_for_group_by():
    both = {**REPORTS, "media": declared(name="media", granularity="P1D", group_by=["mediaType"])}
    payload = read_guide({"reportId": "queue-performance", "timeGrouping": "byDay", "interval": DAY})
    with pytest.raises(InvalidQuery, match=r"groupBy: is missing.*days by queueId; media by mediaType"):
        find_report_for(payload, both, columns)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"reportId": None}, "reportId", "is missing"),
        ({"reportId": 7}, "reportId", "a number where text is expected"),
        ({"interval": None}, "interval", "is missing"),
        ({"interval": "x" * 1000}, "interval", "1000 characters"),
        ({"interval": DAY + "\0"}, "interval", "NUL"),
        ({"timeGrouping": "byCentury"}, "timeGrouping", "by15Minutes"),
        ({"groupBy": "queueId"}, "groupBy", "text where a list"),
        ({"groupBy": ["queueId"] * 500}, "groupBy", "500"),
        ({"groupBy": [None]}, "groupBy", "null where text"),
        ({"sortBy": "offered"}, "sortBy", "is not a field of a query"),
        ({"filters": []}, "filters", "a list where an object"),
        ({"filters": {"predicates": [{"dimension": "queueId", "operator": "like", "values": ["a"]}]}},
         "filters.predicates.0.operator", "'in' or 'notIn'"),
        ({"filters": {"predicates": [{"dimension": "queueId", "values": [float("nan")]}]}},
         "filters.predicates.0.values", "NaN"),
        ({"filters": {"type": "and", "predicates": [
            {"dimension": "queueId", "values": ["a"]}, {"dimension": "queueId", "values": ["b"]}]}},
         "filters", "contradicts itself"),
    ],
)  # fmt: skip
def test_payload_error_names_the_field(fields: dict[str, Any], field: str, message: str):
    with pytest.raises(InvalidQuery, match=message) as raised:
        guide(**fields)
    assert raised.value.field == field
    assert len(str(raised.value)) < 400


def test_unanswerable_query_gives_each_reports_reason():
    with pytest.raises(QueryError, match=r"quarters: metrics: unknown name 'held'.*days: metrics: unknown name 'held'"):
        guide(columns=["held"])
    with pytest.raises(UnknownReport, match="declared are queue-performance"):
        guide(reportId="agent-performance")
    with pytest.raises(InvalidInterval, match="reversed"):
        guide(interval="/".join(reversed(DAY.split("/"))))
    for body in (None, [], "x", 7):
        with pytest.raises(InvalidQuery, match=r"payload: is .* where an object is expected"):
            read_guide(body)


def test_genesys_bodies_with_equal_meaning_share_a_key():
    clause = {"type": "or", "predicates": [{"dimension": "queueId", "value": name} for name in ("a", "b")]}
    one = genesys(
        filter={"type": "and", "clauses": [clause], "predicates": [{"dimension": "mediaType", "operator": "exists"}]}
    )
    assert one.declared is CALLS
    assert one.requested.group_by == ()
    assert [(p.dimension, p.operator, p.values) for p in one.requested.filters.declaration.predicates] == [
        ("mediaType", "notIn", (None,)), ("queueId", "in", ("a", "b")),
    ]  # fmt: skip
    other = genesys(
        filter={"type": "and", "predicates": [{"type": "dimension", "dimension": "mediaType", "operator": "exists"}],
                "clauses": [{"type": "or", "predicates": [{"dimension": "queueId", "operator": "matches", "value": v}
                                                          for v in ("b", "a", "b")]}]},
        timeZone="Etc/UTC", views=[], queryType="groupBy", flattenMultivaluedDimensions=False, groupBy=[],
    )  # fmt: skip
    assert one.cache_key("t", "5s") == other.cache_key("t", "5s")


def test_missing_granularity_means_one_bucket():
    assert genesys(granularity=None).requested.granularity == "P1D"
    with pytest.raises(InvalidQuery, match="granularity: is missing, which means all of"):
        genesys(granularity=None, interval="2026-01-05T00:00:00Z/2026-01-05T05:00:00Z")


def predicate(**fields: Any) -> dict[str, Any]:
    return {"filter": {"type": "and", "predicates": [{"dimension": "queueId", **fields}]}}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"views": [{"name": "v"}]}, "views"),
        ({"limit": 5}, "limit"),
        ({"sortMetric": {"name": "nOffered"}}, "sortMetric"),
        ({"queryType": "topN"}, "queryType"),
        ({"alternateTimeDimension": "eventTime"}, "alternateTimeDimension"),
        ({"flattenMultivaluedDimensions": True}, "flattenMultivaluedDimensions"),
        ({"metrics": []}, "metrics"),
        ({"metrics": ["tTalk"]}, "metrics"),
        (predicate(range={"gt": 5}), "filter.predicates.0.range"),
        (predicate(metric="tHandle", value="1"), "filter.predicates.0.metric"),
        (predicate(type="property", value="1"), "filter.predicates.0.type"),
        (predicate(operator="like", value="1"), "filter.predicates.0.operator"),
        (predicate(), "filter.predicates.0.value"),
        (predicate(value="a", negate=True), "filter.predicates.0.negate"),
        ({"filter": {"type": "and", "clauses": [{"type": "or", "clauses": []}]}}, "filter.clauses.0.clauses"),
        ({"filter": {"type": "xor"}}, "filter.type"),
    ],
)
def test_unsupported_genesys_field_is_refused_by_name(fields: dict[str, Any], field: str):
    with pytest.raises(InvalidQuery) as raised:
        genesys(**fields)
    assert raised.value.field == field

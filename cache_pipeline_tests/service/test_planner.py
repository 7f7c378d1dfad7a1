"""What a plan says will be asked, and why; and that it asks for nothing that can be had otherwise."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.fetch.partition_fetch import clip_to_now
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.query_request import QueryOverrides, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.service.planner import (
    AnswerSource,
    Cost,
    Plan,
    QuotaHeadroom,
    StoredSeries,
    make_hot_plan,
    make_plan,
)
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.query.declared import declared

NOW = datetime(2026, 1, 6, 12, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
REPORT = declared(time_zone="UTC", ttl="PT10M", max_query_interval="P1D")
QUARTERS = declared(name="quarters", granularity="PT15M", time_zone="UTC", metrics=["offered", "answered", "abandoned"])
DAYS = declared(name="days", granularity="P1D", time_zone="UTC", group_by=["queueId"])


def span(first: str, last: str) -> Interval:
    return Interval.parse(f"2026-01-{first}Z/2026-01-{last}Z")


TWO_DAYS = span("05T00:00", "07T00:00")


def query(report: Report = REPORT, interval: Interval = TWO_DAYS, **narrowing: Any) -> CanonicalQuery:
    wanted = resolve_request(report, interval, QueryOverrides(**narrowing), ReportDataAdapter.columns(report))
    begun = clip_to_now(interval, wanted.requested, NOW)
    assert begun is not None
    found = replace(wanted, interval=begun).canonical_query("t")
    return replace(found, elapsed=clip_to_now(begun, report, NOW))


def holding(
    report: Report = REPORT, complete: list[Interval] | None = None, provisional: list[tuple[Interval, datetime]] | None = None
) -> StoredSeries:  # fmt: skip
    aging = [FetchTime(IntervalSet([part]), at) for part, at in provisional or []]
    coverage = Coverage(
        IntervalSet(complete or []), IntervalSet(part for part, _ in provisional or []), NOW - HOUR, tuple(aging)
    )
    return StoredSeries(report, ReportDataAdapter.columns(report), coverage)


def told(found: Plan) -> list[tuple[str, str, str]]:
    return [(step.source, step.report, str(step.interval)) for step in found.steps]


def held_until_now(minutes: float) -> StoredSeries:
    """Final but for the last two hours, of which the first was asked for nine minutes ago."""
    return holding(
        complete=[span("05T00:00", "06T11:00")],
        provisional=[
            (span("06T11:00", "06T12:00"), NOW - timedelta(minutes=9)),
            (span("06T12:00", "06T13:00"), NOW - timedelta(minutes=minutes)),
        ],
    )


def test_what_is_final_is_never_asked_for_and_what_is_fresh_enough_is_served():
    found = make_plan(query(), held_until_now(minutes=8), [], NOW)
    assert [(step.source, step.reason) for step in found.steps] == [
        ("history", "stored and final: never fetched again"),
        ("history", "provisional, and fresh enough until 2026-01-06T12:06:00Z"),
        ("history", "provisional, and fresh enough until 2026-01-06T12:07:00Z"),
    ]
    assert found.calls == 0


def test_once_a_provisional_bucket_is_too_old_those_beside_it_come_with_the_same_query():
    found = make_plan(query(), held_until_now(minutes=11), [], NOW)
    assert told(found) == [
        ("history", "queue_hour", "2026-01-05T00:00:00Z/2026-01-06T11:00:00Z"),
        ("vendor", "queue_hour", "2026-01-06T11:00:00Z/2026-01-06T13:00:00Z"),
    ]
    assert found.steps[-1].reason == "provisional, and in part older than 10 min"


def test_gaps_are_cut_into_chunks_that_the_report_declares():
    found = make_plan(
        query(interval=span("01T00:00", "05T06:00")), holding(complete=[span("02T00:00", "03T00:00")]), [], NOW
    )
    assert [str(chunk)[:16] for chunk in found.chunks] == ["2026-01-01T00:00", "2026-01-03T00:00", "2026-01-04T00:00", "2026-01-05T00:00"]  # fmt: skip
    assert found.to_fetch == IntervalSet([span("01T00:00", "02T00:00"), span("03T00:00", "05T06:00")])
    assert {step.reason for step in found.steps if step.source is AnswerSource.vendor} == {"not stored"}


def test_another_series_that_holds_finer_rows_is_rolled_up_before_the_vendor_is_asked():
    finer = holding(
        QUARTERS, [span("05T00:00", "06T00:00")], [(span("06T00:00", "06T12:15"), NOW - timedelta(minutes=3))]
    )
    found = make_plan(query(), holding(), [finer], NOW)
    assert {step.source for step in found.steps} == {AnswerSource.roll_up}
    assert found.calls == 0 == len(found.chunks)
    [borrowed] = found.rolled_up
    assert borrowed.final == IntervalSet([span("05T00:00", "06T00:00")])
    assert borrowed.provisional == IntervalSet([span("06T00:00", "06T13:00")])
    assert not found.coverage.gaps(IntervalSet([found.query.available_interval]), NOW, timedelta(minutes=10))


def test_a_bucket_that_the_other_series_holds_in_part_is_asked_for():
    finer = holding(QUARTERS, [span("05T00:15", "05T03:45")])
    found = make_plan(query(interval=span("05T00:00", "05T05:00")), holding(), [finer], NOW)
    assert told(found) == [
        ("vendor", "queue_hour", "2026-01-05T00:00:00Z/2026-01-05T01:00:00Z"),
        ("roll-up", "quarters", "2026-01-05T01:00:00Z/2026-01-05T03:00:00Z"),
        ("vendor", "queue_hour", "2026-01-05T03:00:00Z/2026-01-05T05:00:00Z"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"group_by": ["queueId"]},
        {"metrics": ["offered"]},
        {"granularity": "P1D"},
        {"query_type": "agent-performance"},
        {"filters": {"predicates": [{"dimension": "queueId", "values": ["a"]}]}},
    ],
)
def test_a_series_that_cannot_be_rolled_up_to_it_is_left_alone(changes: dict[str, Any]):
    other = holding(declared(name="other", time_zone="UTC", **changes), [TWO_DAYS])
    assert make_plan(query(), holding(), [other], NOW).rolled_up == ()


def test_the_series_with_the_longest_buckets_is_taken_first():
    others = [
        holding(QUARTERS, [TWO_DAYS]),
        holding(declared(name="halves", granularity="PT30M", time_zone="UTC"), [TWO_DAYS]),
    ]
    assert [each.source.report.name for each in make_plan(query(), holding(), others, NOW).rolled_up] == ["halves"]


def test_calls_and_time_are_told_from_what_chunks_took_and_from_the_quotas_room():
    wanted = query(interval=span("01T00:00", "05T00:00"))
    found = make_plan(
        wanted, holding(), [], NOW, Cost(calls=4, seconds=7), QuotaHeadroom(now=10, per_window=10, window_seconds=60)
    )
    assert (found.calls, found.seconds) == (16, 60)
    ample = make_plan(
        wanted, holding(), [], NOW, Cost(calls=4, seconds=7), QuotaHeadroom(now=100, per_window=100, window_seconds=60)
    )
    assert (ample.wait_seconds, ample.seconds) == (0, 14)
    assert make_plan(wanted, holding(), [], NOW).cost == Cost.assumed(REPORT)


def test_a_narrowed_question_asks_for_the_declared_series():
    found = make_plan(query(QUARTERS, granularity="P1D", group_by=()), holding(QUARTERS), [], NOW)
    assert {step.report for step in found.steps} == {"quarters"}
    assert found.chunks[-1].end == NOW.replace(minute=15)


def test_a_finished_answer_costs_nothing():
    found = make_hot_plan(query())
    assert [step.source for step in found.steps] == [AnswerSource.hot]
    assert (found.calls, found.seconds) == (0, 0)


buckets = st.lists(st.integers(0, 35), max_size=30, unique=True)


@given(buckets, buckets, st.lists(st.integers(0, 143), max_size=140, unique=True), st.integers(0, 20))
def test_the_steps_are_exactly_the_span_and_nothing_held_is_asked_for(complete, provisional, finer, minutes):
    start = TWO_DAYS.start

    def hours(places: list[int], length: timedelta = HOUR) -> list[Interval]:
        return [Interval(start + n * length, start + (n + 1) * length) for n in places]

    at = NOW - timedelta(minutes=minutes)
    aging = [n for n in provisional if n not in complete]
    kept = holding(complete=hours(complete), provisional=[(part, at) for part in hours(aging)])
    found = make_plan(query(), kept, [holding(QUARTERS, hours(finer, HOUR / 4))], NOW)
    parts = [step.interval for step in found.steps]
    assert IntervalSet(parts) == IntervalSet([found.query.available_interval])
    assert sum((part.length for part in parts), timedelta()) == found.query.available_interval.length
    assert not found.to_fetch & kept.coverage.final
    assert all(kept.coverage.gaps(IntervalSet([part]), NOW, timedelta(minutes=10)) for part in found.to_fetch)
    assert not found.coverage.gaps(
        IntervalSet([found.query.available_interval]) - found.to_fetch, NOW, timedelta(minutes=10)
    )


def test_an_answer_of_own_and_borrowed_parts_is_as_old_as_the_oldest_of_them_and_due_when_that_one_is():
    """G11: each part has an age of its own; the quarters' freshness is their own affair."""
    today = span("06T00:00", "06T12:00")
    first, second, third = span("06T00:00", "06T04:00"), span("06T04:00", "06T08:00"), span("06T08:00", "06T12:00")
    at = {first: NOW - timedelta(minutes=3), second: NOW - timedelta(minutes=7), third: NOW - timedelta(minutes=5)}
    own = holding(provisional=[(first, at[first]), (third, at[third])])
    lent = holding(QUARTERS, provisional=[(second, at[second])])
    for minutes in (0, 2.9):
        found = make_plan(query(interval=today), own, [lent], NOW + timedelta(minutes=minutes))
        assert not found.to_fetch
        known = found.coverage.completeness_of(today)
        assert known is not None
        assert (known.fetched_at, known.provisional_from) == (at[second], today.start)
    assert make_plan(query(interval=today), own, [lent], NOW + timedelta(minutes=3)).to_fetch & IntervalSet([second])

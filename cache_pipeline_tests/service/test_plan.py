"""A plan fetches only what no tier has, and gives the reason for each step."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.query_request import QueryOverrides, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import clip_to_now
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.service.plan import (
    AnswerSource,
    Cost,
    Plan,
    QuotaHeadroom,
    StoredSeries,
    can_roll_up,
    make_hot_plan,
    make_plan,
)
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.upstream.quota import ClientQuota, ClientState, QuotaPolicy, SharedLimit
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.query.declared import declared, with_changes

NOW = datetime(2026, 1, 6, 12, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
REPORT = declared(time_zone="UTC", ttl="PT10M", max_query_interval="P1D")
QUARTERS = declared(name="quarters", granularity="PT15M", time_zone="UTC", metrics=["offered", "answered", "abandoned"])
DAYS = declared(name="days", granularity="P1D", time_zone="UTC", group_by=["queueId"])


def span(first: str, last: str) -> Interval:
    return Interval.parse(f"2026-01-{first}Z/2026-01-{last}Z")


TWO_DAYS = span("05T00:00", "07T00:00")


def query(report: Report = REPORT, interval: Interval = TWO_DAYS, **overrides: Any) -> CanonicalQuery:
    wanted = resolve_request(report, interval, QueryOverrides(**overrides), ReportDataAdapter.columns(report))
    begun = clip_to_now(interval, wanted.requested, NOW)
    assert begun is not None
    found = replace(wanted, interval=begun).canonical_query("t")
    return replace(found, elapsed=clip_to_now(begun, report, NOW))


def series_with(
    report: Report = REPORT, complete: list[Interval] | None = None, provisional: list[tuple[Interval, datetime]] | None = None
) -> StoredSeries:  # fmt: skip
    aging = [FetchTime(IntervalSet([part]), at) for part, at in provisional or []]
    coverage = Coverage(
        IntervalSet(complete or []), IntervalSet(part for part, _ in provisional or []), NOW - HOUR, tuple(aging)
    )
    return StoredSeries(report, ReportDataAdapter.columns(report), coverage)


def steps_of(found: Plan) -> list[tuple[str, str, str]]:
    return [(step.source, step.report, str(step.interval)) for step in found.steps]


def stored_until_now(minutes: float) -> StoredSeries:
    """Return a series that is final except for the last two hours, of which the first was fetched nine minutes ago."""
    return series_with(
        complete=[span("05T00:00", "06T11:00")],
        provisional=[
            (span("06T11:00", "06T12:00"), NOW - timedelta(minutes=9)),
            (span("06T12:00", "06T13:00"), NOW - timedelta(minutes=minutes)),
        ],
    )


def test_final_and_fresh_figures_are_not_fetched():
    found = make_plan(query(), stored_until_now(minutes=8), [], NOW)
    assert [(step.source, step.reason) for step in found.steps] == [
        ("history", "stored and final: never fetched again"),
        ("history", "provisional, and fresh enough until 2026-01-06T12:06:00Z"),
        ("history", "provisional, and fresh enough until 2026-01-06T12:07:00Z"),
    ]
    assert found.calls == 0


def test_stale_bucket_is_fetched_with_its_provisional_neighbours():
    found = make_plan(query(), stored_until_now(minutes=11), [], NOW)
    assert steps_of(found) == [
        ("history", "queue_hour", "2026-01-05T00:00:00Z/2026-01-06T11:00:00Z"),
        ("vendor", "queue_hour", "2026-01-06T11:00:00Z/2026-01-06T13:00:00Z"),
    ]
    assert found.steps[-1].reason == "provisional, and due to be fetched again"


def test_gaps_are_split_into_declared_chunks():
    found = make_plan(
        query(interval=span("01T00:00", "05T06:00")), series_with(complete=[span("02T00:00", "03T00:00")]), [], NOW
    )
    assert [str(chunk)[:16] for chunk in found.chunks] == ["2026-01-01T00:00", "2026-01-03T00:00", "2026-01-04T00:00", "2026-01-05T00:00"]  # fmt: skip
    assert found.to_fetch == IntervalSet([span("01T00:00", "02T00:00"), span("03T00:00", "05T06:00")])
    assert {step.reason for step in found.steps if step.source is AnswerSource.vendor} == {"not stored"}


def test_finer_series_is_rolled_up_before_fetching():
    finer = series_with(
        QUARTERS, [span("05T00:00", "06T00:00")], [(span("06T00:00", "06T12:15"), NOW - timedelta(minutes=3))]
    )
    found = make_plan(query(), series_with(), [finer], NOW)
    assert {step.source for step in found.steps} == {AnswerSource.roll_up}
    assert found.calls == 0 == len(found.chunks)
    [part] = found.rolled_up
    assert part.final == IntervalSet([span("05T00:00", "06T00:00")])
    assert part.provisional == IntervalSet([span("06T00:00", "06T13:00")])
    assert not FreshnessRule.of(REPORT).gaps(found.coverage, IntervalSet([found.query.available_interval]), NOW)


def test_partly_stored_finer_bucket_is_fetched():
    finer = series_with(QUARTERS, [span("05T00:15", "05T03:45")])
    found = make_plan(query(interval=span("05T00:00", "05T05:00")), series_with(), [finer], NOW)
    assert steps_of(found) == [
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
def test_incompatible_series_is_not_rolled_up(changes: dict[str, Any]):
    other = series_with(declared(name="other", time_zone="UTC", **changes), [TWO_DAYS])
    assert make_plan(query(), series_with(), [other], NOW).rolled_up == ()


MEDIA = {medium: {"predicates": [{"dimension": "mediaType", "values": [medium]}]} for medium in ("voice", "chat")}
#: Filters that no row can match together with voice.
DISJOINT = [
    MEDIA["chat"],
    {"predicates": [{"dimension": "mediaType", "operator": "notIn", "values": ["voice"]}]},
    {"predicates": [{"dimension": "mediaType", "operator": "notExists"}]},
]


@pytest.mark.parametrize("filters", DISJOINT)
def test_disjoint_filters_roll_nothing_up(filters: dict[str, Any]):
    voice = declared(name="voice", time_zone="UTC", filters=MEDIA["voice"])
    other = declared(name="other", time_zone="UTC", filters=filters)
    for own, source in ((voice, other), (other, voice)):
        assert make_plan(query(own), series_with(own), [series_with(source, [TWO_DAYS])], NOW).rolled_up == ()
        assert not can_roll_up(own, source, ReportDataAdapter.columns(source))


def test_longest_buckets_are_rolled_up_first():
    others = [
        series_with(QUARTERS, [TWO_DAYS]),
        series_with(declared(name="halves", granularity="PT30M", time_zone="UTC"), [TWO_DAYS]),
    ]
    assert [each.source.report.name for each in make_plan(query(), series_with(), others, NOW).rolled_up] == ["halves"]


def test_plan_estimates_calls_and_time():
    wanted = query(interval=span("01T00:00", "05T00:00"))
    unpriced = make_plan(wanted, series_with(), [], NOW, Cost(calls=4, seconds=7))
    found = unpriced.with_headroom(QuotaHeadroom(now=10, per_window=10, window_seconds=60))
    assert (found.calls, found.seconds) == (16, 60)
    ample = unpriced.with_headroom(QuotaHeadroom(now=100, per_window=100, window_seconds=60))
    assert (ample.wait_seconds, ample.seconds) == (0, 14)
    assert unpriced.with_headroom(None) == unpriced
    assert make_plan(wanted, series_with(), [], NOW).cost == Cost.assumed(REPORT)


def test_headroom_keeps_to_the_organisations_limit():
    policy = QuotaPolicy(limit=60, window_seconds=60, reserve=0)
    clients = [ClientQuota(each, ClientState.available, 10, 50, 0, 0.0, 0, 0) for each in "abc"]
    assert QuotaHeadroom.of(policy, clients, Lane.backfill).per_window == 3 * 48
    shared = SharedLimit("org.rate.per.minute", "organisation", 90, 60.0, 30)
    found = QuotaHeadroom.of(policy, clients, Lane.backfill, [shared])
    assert (found.now, found.per_window) == (72 - 30, 72)


def test_override_plans_the_declared_series():
    found = make_plan(query(QUARTERS, granularity="P1D", group_by=()), series_with(QUARTERS), [], NOW)
    assert {step.report for step in found.steps} == {"quarters"}
    assert found.chunks[-1].end == NOW.replace(minute=15)


def test_hot_plan_costs_nothing():
    found = make_hot_plan(query())
    assert [step.source for step in found.steps] == [AnswerSource.hot]
    assert (found.calls, found.seconds) == (0, 0)


buckets = st.lists(st.integers(0, 35), max_size=30, unique=True)


@given(buckets, buckets, st.lists(st.integers(0, 143), max_size=140, unique=True), st.integers(0, 20))
def test_steps_cover_the_interval_exactly_once(complete, provisional, finer, minutes):
    start = TWO_DAYS.start

    def hours(places: list[int], length: timedelta = HOUR) -> list[Interval]:
        return [Interval(start + n * length, start + (n + 1) * length) for n in places]

    at = NOW - timedelta(minutes=minutes)
    aging = [n for n in provisional if n not in complete]
    own = series_with(complete=hours(complete), provisional=[(part, at) for part in hours(aging)])
    found = make_plan(query(), own, [series_with(QUARTERS, hours(finer, HOUR / 4))], NOW)
    parts = [step.interval for step in found.steps]
    assert IntervalSet(parts) == IntervalSet([found.query.available_interval])
    assert sum((part.length for part in parts), timedelta()) == found.query.available_interval.length
    assert not found.to_fetch & own.coverage.final
    rule = FreshnessRule.of(REPORT)
    assert all(rule.gaps(own.coverage, IntervalSet([part]), NOW) for part in found.to_fetch)
    assert not rule.gaps(found.coverage, IntervalSet([found.query.available_interval]) - found.to_fetch, NOW)


def test_mixed_answer_is_as_old_as_its_oldest_part():
    """G11: each part has its own age; the freshness of the finer report does not matter."""
    report, quarters = (with_changes(each, finality_delay=timedelta(days=1)) for each in (REPORT, QUARTERS))
    today = span("06T00:00", "06T12:00")
    first, second, third = span("06T00:00", "06T04:00"), span("06T04:00", "06T08:00"), span("06T08:00", "06T12:00")
    at = {first: NOW - timedelta(minutes=3), second: NOW - timedelta(minutes=7), third: NOW - timedelta(minutes=5)}
    own = series_with(report, provisional=[(first, at[first]), (third, at[third])])
    lent = series_with(quarters, provisional=[(second, at[second])])
    for minutes in (0, 2.9):
        found = make_plan(query(report, today), own, [lent], NOW + timedelta(minutes=minutes))
        assert not found.to_fetch
        known = found.coverage.completeness_of(today)
        assert known is not None
        assert (known.fetched_at, known.provisional_from) == (at[second], today.start)
    assert make_plan(query(report, today), own, [lent], NOW + timedelta(minutes=3)).to_fetch & IntervalSet([second])


def test_part_that_is_rolled_up_leaves_the_second_look_of_another():
    waiting, rest = span("05T00:00", "05T01:00"), span("05T01:00", "06T00:00")
    own = series_with(provisional=[(waiting, NOW - timedelta(minutes=5))])
    looks = {SecondLook.unexpected: IntervalSet([waiting])}
    own = replace(own, coverage=replace(own.coverage, second_looks=looks, recheck_delay=timedelta(minutes=40)))
    day = query(interval=span("05T00:00", "06T00:00"))
    known = make_plan(day, own, [series_with(QUARTERS, [rest])], NOW)
    assert not known.to_fetch
    completeness = FreshnessRule.of(REPORT).completeness_of(known.coverage, day.interval)
    assert completeness is not None
    assert completeness.fresh_until == NOW + timedelta(minutes=35)


def test_bucket_that_may_be_final_is_fetched_for_every_caller():
    """The lifetime is not over yet, but the query that makes the bucket final costs no more now than later."""
    just_ended = (span("06T11:00", "06T12:00"), NOW - timedelta(minutes=1))
    stored = series_with(complete=[span("05T00:00", "06T11:00")], provisional=[just_ended])
    until_noon = query(interval=span("05T00:00", "06T12:00"))
    assert not make_plan(until_noon, stored, [], NOW + timedelta(minutes=8)).to_fetch
    patient = replace(stored, report=with_changes(REPORT, ttl=timedelta(hours=4)))
    assert not make_plan(until_noon, patient, [], NOW + timedelta(minutes=9)).to_fetch
    assert make_plan(until_noon, patient, [], NOW + timedelta(minutes=10)).to_fetch == IntervalSet([just_ended[0]])


def test_plan_for_final_figures_fetches_everything_provisional():
    stored = stored_until_now(minutes=1)
    assert not make_plan(query(), stored, [], NOW).to_fetch
    assert make_plan(query(), stored, [], NOW, final_only=True).to_fetch == IntervalSet([span("06T11:00", "06T13:00")])

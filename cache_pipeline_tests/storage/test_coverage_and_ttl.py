"""Tests of coverage, freshness TTLs and hot TTLs."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.calendar import Step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.storage.answer import Completeness
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ttl import HOT_TTL, freshness_ttl, jitter_ttl, report_freshness
from cache_pipeline_tests.query.declared import declared

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)
NOW = EPOCH + timedelta(days=1)
EARLIER = NOW - timedelta(hours=1)
FRESHNESS = timedelta(minutes=15)
LIMIT = 40

spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).filter(lambda ends: ends[0] < ends[1])
sets_of_spans = st.lists(spans, max_size=5)


def minute(number: int) -> datetime:
    return EPOCH + timedelta(minutes=number)


def rule(ttl: timedelta = FRESHNESS) -> FreshnessRule:
    """Return a rule for buckets of a minute, none of which is old enough to be final."""
    return FreshnessRule(ttl, timedelta(days=400), Step(minutes=1), ZoneInfo("UTC"))


def interval_set(minutes: set[int]) -> IntervalSet:
    return IntervalSet(Interval(minute(each), minute(each + 1)) for each in minutes)


def model(pairs: list[tuple[int, int]]) -> set[int]:
    return {each for start, end in pairs for each in range(start, end)}


@given(sets_of_spans, sets_of_spans, sets_of_spans, st.integers(0, 30))
def test_gaps_exclude_final_and_fresh_provisional_intervals(final_spans, provisional_spans, requested, age):
    final, provisional = model(final_spans), model(provisional_spans) - model(final_spans)
    coverage = Coverage(
        interval_set(final),
        interval_set(provisional),
        EPOCH,
        (FetchTime(interval_set(provisional), NOW - timedelta(minutes=age)),),
    )
    fresh = final | provisional if provisional and age < 15 else final
    assert rule().gaps(coverage, interval_set(model(requested)), NOW) == interval_set(model(requested) - fresh)


@given(sets_of_spans, sets_of_spans, spans)
def test_completeness_is_known_only_of_covered_intervals(final_spans, provisional_spans, span):
    final, provisional = model(final_spans), model(provisional_spans) - model(final_spans)
    coverage = Coverage(
        interval_set(final),
        interval_set(provisional),
        minute(LIMIT),
        (FetchTime(interval_set(provisional), NOW), FetchTime(interval_set(final), EARLIER)),
    )
    requested = model([span])
    known = coverage.completeness_of(Interval(minute(span[0]), minute(span[1])))
    if not requested <= final | provisional:
        assert known is None
    elif requested <= final:
        assert known == Completeness(minute(span[1]), None, EARLIER)
    else:
        first_open = minute(min(requested - final))
        assert known == Completeness(first_open, first_open, NOW)


@given(
    st.dictionaries(st.integers(0, LIMIT - 1), st.integers(0, 14), min_size=1, max_size=LIMIT),
    sets_of_spans,
    spans,
    st.integers(0, 20),
)
def test_answer_is_refetched_when_its_oldest_part_is_stale(ages, final_spans, span, later):
    """G11, at the seam of every part: minutes by their age, any of them final."""
    final = model(final_spans)
    provisional_ages = {each: age for each, age in ages.items() if each not in final}
    parts = [
        FetchTime(
            interval_set({each for each in provisional_ages if provisional_ages[each] == age}),
            NOW - timedelta(minutes=age),
        )
        for age in sorted(set(provisional_ages.values()))
    ]
    coverage = Coverage(interval_set(final), interval_set(set(provisional_ages)), EPOCH, tuple(parts))
    requested = model([span]) & (final | set(provisional_ages))
    for part in interval_set(requested):
        known = coverage.completeness_of(part)
        assert known is not None
        inside = [age for each, age in provisional_ages.items() if part.contains_instant(minute(each))]
        if not inside:
            assert known.provisional_from is None
            assert not rule().gaps(coverage, IntervalSet([part]), NOW + timedelta(days=365))
            continue
        assert known.fetched_at == NOW - timedelta(minutes=max(inside))
        now = NOW + timedelta(minutes=later)
        assert bool(rule().gaps(coverage, IntervalSet([part]), now)) == (now - known.fetched_at >= FRESHNESS)


@pytest.mark.parametrize(
    ("interval", "ttl"),
    [
        (timedelta(hours=24), timedelta(hours=4)),
        (timedelta(hours=1), timedelta(minutes=15)),
        # Half way between the two, as ratios go.
        (timedelta(hours=24**0.5), timedelta(hours=1)),
        (timedelta(days=7), timedelta(hours=4)),
        (timedelta(days=365), timedelta(hours=4)),
        (timedelta(seconds=1), timedelta(seconds=30)),
        (timedelta(0), timedelta(seconds=30)),
    ],
)
def test_freshness_passes_through_the_guides_points(interval, ttl):
    """G11."""
    assert abs(freshness_ttl(interval) - ttl) < timedelta(milliseconds=1)


@given(st.timedeltas(timedelta(0), timedelta(days=60)), st.timedeltas(timedelta(0), timedelta(days=60)))
def test_freshness_is_monotonic_and_bounded(one, other):
    short, long = sorted((one, other))
    assert timedelta(seconds=30) <= freshness_ttl(short) <= freshness_ttl(long) <= timedelta(hours=4)


def test_report_may_declare_its_own_freshness():
    assert report_freshness(declared(ttl="PT5M")) == timedelta(minutes=5)
    assert abs(report_freshness(declared()) - timedelta(hours=4)) < timedelta(milliseconds=1)
    assert abs(report_freshness(declared(partition="hour")) - timedelta(minutes=15)) < timedelta(milliseconds=1)


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=1)), st.floats(0, 1, exclude_max=True))
def test_jitter_shortens_by_at_most_a_tenth(ttl, chance):
    """G21."""
    assert ttl * 0.9 - timedelta(microseconds=1) <= jitter_ttl(ttl, lambda: chance) <= ttl


def test_jitter_spreads_lifetimes():
    ttls = {jitter_ttl(HOT_TTL, random.Random(1).random) for _ in range(1)} | {
        jitter_ttl(HOT_TTL, random.Random(seed).random) for seed in range(100)
    }
    assert len(ttls) > 50
    assert max(ttls) - min(ttls) > HOT_TTL * 0.08


def test_hot_ttl_is_below_five_seconds():
    """G8."""
    assert timedelta(0) < HOT_TTL < timedelta(seconds=5)


def test_second_look_is_fetched_once_its_delay_is_over():
    """Neither sooner, however short the freshness, nor later, however long it is."""
    night, delay = (minute(0), minute(10)), timedelta(minutes=20)
    waiting = IntervalSet([Interval(*night)])
    coverage = Coverage(
        provisional=waiting,
        fetch_times=(FetchTime(waiting, NOW),),
        second_looks={SecondLook.unexpected: waiting},
        recheck_delay=delay,
    )
    for freshness in (timedelta(seconds=5), timedelta(hours=4)):
        assert not rule(freshness).gaps(coverage, waiting, NOW + delay - timedelta(seconds=1))
        assert rule(freshness).gaps(coverage, waiting, NOW + delay) == waiting

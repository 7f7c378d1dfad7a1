import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.answer import Completeness
from cache_pipeline.storage.coverage import Coverage, Fetched
from cache_pipeline.storage.ttl import HOT_TTL, freshness_ttl, jittered, report_freshness
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


def interval_set(minutes: set[int]) -> IntervalSet:
    return IntervalSet(Interval(minute(each), minute(each + 1)) for each in minutes)


def model(pairs: list[tuple[int, int]]) -> set[int]:
    return {each for start, end in pairs for each in range(start, end)}


@given(sets_of_spans, sets_of_spans, sets_of_spans, st.integers(0, 30))
def test_asked_for_again_is_all_but_the_final_and_the_fresh_provisional(complete, provisional, wanted, age):
    final, open_ = model(complete), model(provisional) - model(complete)
    coverage = Coverage(
        interval_set(final),
        interval_set(open_),
        minute(LIMIT),
        (Fetched(interval_set(open_), NOW - timedelta(minutes=age)),),
    )
    held = final | open_ if open_ and age < 15 else final
    assert coverage.gaps(interval_set(model(wanted)), NOW, FRESHNESS) == interval_set(model(wanted) - held)


@given(sets_of_spans, sets_of_spans, spans)
def test_completeness_is_told_only_of_what_is_held_whole(complete, provisional, span):
    final, open_ = model(complete), model(provisional) - model(complete)
    coverage = Coverage(
        interval_set(final),
        interval_set(open_),
        minute(LIMIT),
        (Fetched(interval_set(open_), NOW), Fetched(interval_set(final), EARLIER)),
    )
    wanted = model([span])
    known = coverage.of(Interval(minute(span[0]), minute(span[1])))
    if not wanted <= final | open_:
        assert known is None
    elif wanted <= final:
        assert known == Completeness(minute(span[1]), None, EARLIER)
    else:
        first_open = minute(min(wanted - final))
        assert known == Completeness(first_open, first_open, NOW)


@given(
    st.dictionaries(st.integers(0, LIMIT - 1), st.integers(0, 14), min_size=1, max_size=LIMIT),
    sets_of_spans,
    spans,
    st.integers(0, 20),
)
def test_an_answer_is_as_old_as_its_oldest_part_and_is_asked_for_again_when_that_is_too_old_and_not_before(
    ages, complete, span, later
):
    """G11, at the seam of every part: minutes by their age, any of them final."""
    final = model(complete)
    open_ages = {each: age for each, age in ages.items() if each not in final}
    parts = [
        Fetched(interval_set({each for each in open_ages if open_ages[each] == age}), NOW - timedelta(minutes=age))
        for age in sorted(set(open_ages.values()))
    ]
    coverage = Coverage(interval_set(final), interval_set(set(open_ages)), minute(LIMIT), tuple(parts))
    wanted = model([span]) & (final | set(open_ages))
    for part in interval_set(wanted):
        known = coverage.of(part)
        assert known is not None
        inside = [age for each, age in open_ages.items() if part.contains_instant(minute(each))]
        if not inside:
            assert known.provisional_from is None
            assert not coverage.gaps(IntervalSet([part]), NOW + timedelta(days=365), FRESHNESS)
            continue
        assert known.fetched_at == NOW - timedelta(minutes=max(inside))
        now = NOW + timedelta(minutes=later)
        assert bool(coverage.gaps(IntervalSet([part]), now, FRESHNESS)) == (now - known.fetched_at >= FRESHNESS)


@pytest.mark.parametrize(
    ("interval", "ttl"),
    [
        (timedelta(hours=24), timedelta(hours=4)),
        (timedelta(hours=1), timedelta(minutes=15)),
        (timedelta(days=7), timedelta(hours=4)),
        (timedelta(days=365), timedelta(hours=4)),
        (timedelta(seconds=1), timedelta(seconds=30)),
        (timedelta(0), timedelta(seconds=30)),
    ],
)
def test_freshness_runs_through_the_points_of_the_guide(interval, ttl):
    """G11."""
    assert abs(freshness_ttl(interval) - ttl) < timedelta(milliseconds=1)


@given(st.timedeltas(timedelta(0), timedelta(days=60)), st.timedeltas(timedelta(0), timedelta(days=60)))
def test_freshness_never_falls_with_the_interval_and_stays_between_its_ends(one, other):
    short, long = sorted((one, other))
    assert timedelta(seconds=30) <= freshness_ttl(short) <= freshness_ttl(long) <= timedelta(hours=4)


def test_a_report_may_declare_its_own_freshness():
    assert report_freshness(declared(ttl="PT5M")) == timedelta(minutes=5)
    assert abs(report_freshness(declared()) - timedelta(hours=4)) < timedelta(milliseconds=1)
    assert abs(report_freshness(declared(partition="hour")) - timedelta(minutes=15)) < timedelta(milliseconds=1)


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=1)), st.floats(0, 1, exclude_max=True))
def test_jitter_shortens_by_a_tenth_at_most(ttl, chance):
    """G21."""
    assert ttl * 0.9 - timedelta(microseconds=1) <= jittered(ttl, lambda: chance) <= ttl


def test_jitter_spreads():
    lives = {jittered(HOT_TTL, random.Random(1).random) for _ in range(1)} | {
        jittered(HOT_TTL, random.Random(seed).random) for seed in range(100)
    }
    assert len(lives) > 50
    assert max(lives) - min(lives) > HOT_TTL * 0.08


def test_the_hot_tier_holds_nothing_for_five_seconds():
    """G8."""
    assert timedelta(0) < HOT_TTL < timedelta(seconds=5)

"""Tests of the decisions which ranges to fetch or publish, from coverage and time."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration.decisions import (
    PartitionRange,
    find_correctable_partitions,
    find_stale_ranges,
    find_stale_time,
    find_unpublished_ranges,
)
from cache_pipeline.query.calendar import Step, midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import FreshnessRule

FIRST = datetime(2025, 6, 1, tzinfo=UTC)
NOW = datetime(2025, 7, 1, tzinfo=UTC)
FRESHNESS = timedelta(hours=1)
# Daily buckets, all of which were younger than the finality delay when they were fetched.
RULE = FreshnessRule(FRESHNESS, timedelta(days=400), Step(days=1), ZoneInfo("UTC"))
MISSING, COMPLETE, PROVISIONAL = "missing", "complete", "provisional"
STATES = st.lists(st.sampled_from([MISSING, COMPLETE, PROVISIONAL]), min_size=1, max_size=25)


def _partitions(count: int) -> dict[str, Interval]:
    days = [FIRST + timedelta(days=number) for number in range(count)]
    return {day.date().isoformat(): Interval(day, day + timedelta(days=1)) for day in days}


def _coverage(states: list[str], age: timedelta) -> Coverage:
    intervals = _partitions(len(states)).values()

    def of(state: str) -> IntervalSet:
        return IntervalSet(interval for interval, each in zip(intervals, states, strict=True) if each == state)

    fetched = (FetchTime(of(PROVISIONAL), NOW - age),) if PROVISIONAL in states else ()
    return Coverage(of(COMPLETE), of(PROVISIONAL), FIRST, fetched)


def _found(states: list[str], age: timedelta = timedelta(0), at_most: int = 100) -> list[PartitionRange]:
    return _ranges(_coverage(states, age), _partitions(len(states)), at_most=at_most)


def _ranges(
    coverage: Coverage,
    partitions: dict[str, Interval],
    now: datetime = NOW,
    rule: FreshnessRule = RULE,
    at_most: int = 9,
) -> list[PartitionRange]:
    """Return the ranges of those partitions that are missing or due."""
    whole = Interval(next(iter(partitions.values())).start, list(partitions.values())[-1].end)
    time = find_stale_time(coverage, whole, whole, now, rule)
    stale = {key: span for key, span in partitions.items() if time & IntervalSet([span])}
    return find_stale_ranges(coverage, stale, now, at_most=at_most)


def _keys(found: PartitionRange, count: int) -> list[str]:
    keys = list(_partitions(count))
    return keys[keys.index(found.first) : keys.index(found.last) + 1]


def test_missing_partition_is_stale() -> None:
    assert _found([COMPLETE, MISSING, COMPLETE]) == [PartitionRange("2025-06-02", "2025-06-02", "never@2025-07-01T00")]


def test_final_partition_is_never_stale() -> None:
    assert _found([COMPLETE, COMPLETE], age=timedelta(days=900)) == []


def test_provisional_partition_is_stale_beyond_its_freshness() -> None:
    assert _found([PROVISIONAL], age=FRESHNESS - timedelta(seconds=1)) == []
    assert [(found.first, found.last) for found in _found([PROVISIONAL], age=FRESHNESS)] == [
        ("2025-06-01", "2025-06-01")
    ]


def test_partly_covered_partition_is_stale() -> None:
    half = Interval(FIRST, FIRST + timedelta(hours=12))
    found = _ranges(Coverage(IntervalSet([half])), _partitions(2))
    assert [(part.first, part.last) for part in found] == [("2025-06-01", "2025-06-02")]


def test_empty_history_is_one_range() -> None:
    assert _found([MISSING] * 5) == [PartitionRange("2025-06-01", "2025-06-05", "never@2025-07-01T00")]


def test_no_partitions_give_no_ranges() -> None:
    assert find_stale_ranges(Coverage(), {}, NOW, at_most=3) == []


def test_refetched_figures_change_the_range_state() -> None:
    (before,) = _found([COMPLETE, PROVISIONAL], age=timedelta(hours=5))
    (repeated,) = _found([COMPLETE, PROVISIONAL], age=timedelta(hours=5))
    (after,) = _found([COMPLETE, PROVISIONAL], age=timedelta(hours=2))
    assert before == repeated
    assert (before.first, before.last) == (after.first, after.last)
    assert before.state != after.state


@given(states=STATES, hours=st.sampled_from([0, 2]))
def test_exactly_missing_and_old_provisional_partitions_are_found(states: list[str], hours: int) -> None:
    stale = {MISSING, PROVISIONAL} if hours else {MISSING}
    expected = {key for key, state in zip(_partitions(len(states)), states, strict=True) if state in stale}
    keys = [key for found in _found(states, timedelta(hours=hours)) for key in _keys(found, len(states))]
    assert len(keys) == len(set(keys))
    assert set(keys) == expected


@given(states=STATES, hours=st.sampled_from([0, 2]))
def test_ranges_are_newest_first_and_merge_neighbours(states: list[str], hours: int) -> None:
    found = _found(states, timedelta(hours=hours))
    order = list(_partitions(len(states)))
    for newer, older in pairwise(found):
        assert order.index(older.last) + 1 < order.index(newer.first)


@given(states=STATES, hours=st.sampled_from([0, 2]), at_most=st.integers(0, 5))
def test_at_most_the_newest_ranges_are_returned(states: list[str], hours: int, at_most: int) -> None:
    everything = _found(states, timedelta(hours=hours))
    assert _found(states, timedelta(hours=hours), at_most) == everything[:at_most]


def test_remaining_gap_changes_state_once_an_hour() -> None:
    """Check that a failed run is repeated after an hour, and not by ticks in between."""

    def state(after: timedelta) -> str:
        return _ranges(Coverage(), _partitions(1), NOW + after)[0].state

    assert state(timedelta(0)) == state(timedelta(minutes=59))
    assert state(timedelta(0)) != state(timedelta(hours=1))


def test_provisional_partitions_that_may_be_final_are_stale() -> None:
    hours = _hours(4)
    provisional = IntervalSet([hours["h1"], hours["h2"], hours["h3"]])
    fetched = FetchTime(provisional, hours["h1"].end + timedelta(minutes=1))
    coverage = Coverage(IntervalSet([hours["h0"]]), provisional, hours["h2"].end, (fetched,))
    rule = FreshnessRule(timedelta(days=1), timedelta(hours=1), Step(minutes=60), ZoneInfo("UTC"))
    (found,) = _ranges(coverage, hours, hours["h3"].end, rule)
    assert (found.first, found.last) == ("h1", "h2")
    later = hours["h3"].end + timedelta(hours=2)
    (all_final,) = _ranges(coverage, hours, later, rule)
    assert (all_final.first, all_final.last) == ("h1", "h3")


def test_recent_gaps_and_all_due_figures_are_stale() -> None:
    """Older gaps need a backfill; figures that a run left provisional do not, however old they are."""
    days = _partitions(20)
    whole = Interval(FIRST, FIRST + timedelta(days=20))
    recent = Interval(FIRST + timedelta(days=15), whole.end)
    held = IntervalSet(days[key] for key in ("2025-06-03", "2025-06-18"))
    coverage = Coverage(provisional=held, fetch_times=(FetchTime(held, FIRST + timedelta(days=3)),))
    found = find_stale_time(coverage, whole, recent, NOW, RULE)
    assert found == IntervalSet([days["2025-06-03"], recent])


def _correctable(fetched: dict[str, str], today: str, *, final: bool = True) -> list[str]:
    """Return which of ten days in June are refetched at noon, given when each was fetched; the window is three days."""
    days = _partitions(10)
    held = IntervalSet(days[key] for key in fetched)
    coverage = Coverage(
        final=held if final else IntervalSet(),
        fetch_times=tuple(
            FetchTime(IntervalSet([days[key]]), datetime.fromisoformat(f"{at}+00:00")) for key, at in fetched.items()
        ),
    )
    now = datetime.fromisoformat(f"{today}T12:00+00:00")
    return list(find_correctable_partitions(coverage, days, now, timedelta(days=3), ZoneInfo("UTC")))


def test_corrected_partitions_are_due_once_a_local_day() -> None:
    fetched = {"2025-06-06": "2025-06-08T00:15", "2025-06-07": "2025-06-08T23:59", "2025-06-08": "2025-06-09T00:15"}
    assert _correctable(fetched, "2025-06-09") == ["2025-06-06", "2025-06-07"]
    assert _correctable(fetched, "2025-06-09", final=False) == [], "what is missing is not refetched but fetched"
    assert _correctable(dict.fromkeys(fetched, "2025-06-09T00:00"), "2025-06-09") == []


def test_missed_correction_is_made_up_for_once() -> None:
    """The daemon was away on the last day of the window of the 3rd, and was not on that of the 2nd."""
    fetched = {"2025-06-02": "2025-06-05T00:20", "2025-06-03": "2025-06-05T00:20"}
    assert _correctable(fetched, "2025-06-08") == ["2025-06-03"]
    assert _correctable({**fetched, "2025-06-03": "2025-06-08T12:00"}, "2025-06-09") == []
    assert _correctable({"2025-06-02": "2025-06-30T12:00"}, "2025-06-30") == [], "a backfill long after"


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_window_of_one_day_refetches_each_day_once(zone: str) -> None:
    """A day is first fetched on the only day on which such a window touches it."""
    own, step = ZoneInfo(zone), timedelta(hours=1)
    first = midnight(date(2025, 10, 20), own)
    days = {
        f"{day}": Interval(midnight(day, own), midnight(day + timedelta(days=1), own))
        for day in (date(2025, 10, 20) + timedelta(days=number) for number in range(16))
    }
    fetched, refetched = dict[str, datetime](), list[tuple[str, date]]()
    now = first
    while now < days["2025-11-03"].end:
        fetched |= {key: now for key, span in days.items() if span.end < now and key not in fetched}
        coverage = Coverage(
            final=IntervalSet(days[key] for key in fetched),
            fetch_times=tuple(FetchTime(IntervalSet([days[key]]), at) for key, at in fetched.items()),
        )
        for key in find_correctable_partitions(coverage, days, now, timedelta(days=1), own):
            fetched[key] = now
            refetched.append((key, now.astimezone(own).date()))
        now += step
    assert refetched == [(str(day), day + timedelta(days=2)) for day in map(date.fromisoformat, list(days)[:13])]


def test_unpublished_ranges_are_oldest_first_and_bounded() -> None:
    hours = _hours(8)
    coverage = Coverage(final=IntervalSet([hours["h2"]]), provisional=IntervalSet([hours["h5"]]))
    staged = {key: span for key, span in hours.items() if key != "h7"}
    found = find_unpublished_ranges(coverage, staged, at_most=2)
    assert [(each.first, each.last) for each in found] == [("h0", "h1"), ("h3", "h4")]
    assert find_unpublished_ranges(coverage, {}, at_most=2) == []


def _hours(number: int) -> dict[str, Interval]:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    return {
        f"h{hour}": Interval(start + timedelta(hours=hour), start + timedelta(hours=hour + 1)) for hour in range(number)
    }

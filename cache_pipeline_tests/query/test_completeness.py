from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.calendar import Step, list_buckets
from cache_pipeline.query.completeness import (
    ChunkResult,
    Expectation,
    ExpectationSource,
    RowDensity,
    TruncationStats,
    Verdict,
    falls_short,
    final_buckets,
    part_falls_short,
    tail_falls_short,
)
from cache_pipeline.query.interval import Interval

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = Step.parse("PT1H")


def hours(text: str) -> list[Interval]:
    return list_buckets(Interval.parse(text, BERLIN), HOUR, BERLIN)


def hour(text: str) -> Interval:
    start = datetime.fromisoformat(text).replace(tzinfo=BERLIN)
    return Interval(start, start + timedelta(hours=1))


@given(st.integers(0, 1_000_000))
def test_four_fifths_are_enough_and_one_row_less_is_not(fifth):
    """G22: below 80 % the payload is discarded."""
    assert not falls_short(4 * fifth, 5 * fifth)
    assert falls_short(4 * fifth - 1, 5 * fifth)


def test_where_nothing_is_expected_nothing_falls_short():
    assert not falls_short(0, 0)
    assert not part_falls_short(0, 0)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_a_part_is_doubted_only_where_the_whole_would_be(got, expected):
    if part_falls_short(got, expected):
        assert falls_short(got, expected)


@pytest.mark.parametrize(("got", "expected", "short"), [(0, 16, False), (0, 17, True), (59, 100, True), (60, 100, False),
                                                        (1599, 2000, True), (1600, 2000, False)])  # fmt: skip
def test_a_part_may_miss_what_chance_explains(got, expected, short):
    assert part_falls_short(got, expected) is short


@pytest.mark.parametrize(("got", "expected", "short"), [(0, 3, False), (0, 4, True), (3, 8, False), (2, 8, True), (12, 20, False),
                                                        (11, 20, True), (80, 100, False), (79, 100, True)])  # fmt: skip
def test_a_tail_is_doubted_sooner_than_a_part_but_not_for_what_often_happens(got, expected, short):
    assert tail_falls_short(got, expected) is short


def test_nothing_known_means_no_expectation():
    assert RowDensity(BERLIN, None).expect(hours("2026-01-05/2026-01-06")) == Expectation(0.0, ExpectationSource.none)


def test_the_declaration_stands_where_history_is_silent():
    assert RowDensity(BERLIN, 24).expect(hours("2026-01-05/2026-01-06")) == Expectation(
        576.0, ExpectationSource.declaration
    )


def test_history_knows_better_than_the_declaration():
    density = RowDensity(BERLIN, 24)
    density.learn(dict.fromkeys(hours("2026-01-05/2026-01-06"), 10))
    assert density.expect(hours("2026-01-12/2026-01-13")) == Expectation(240.0, ExpectationSource.history)


def test_a_bucket_that_only_the_declaration_knows_makes_the_declaration_the_source():
    density = RowDensity(BERLIN, 24)
    density.learn({hour("2026-01-05T09:00"): 10})
    both = [hour("2026-01-12T09:00"), hour("2026-01-12T10:00")]
    assert density.expect(both) == Expectation(34.0, ExpectationSource.declaration)


def test_a_bucket_nobody_knows_makes_the_whole_unknown():
    density = RowDensity(BERLIN, None)
    density.learn({hour("2026-01-05T09:00"): 10})
    assert density.expect([hour("2026-01-12T09:00"), hour("2026-01-12T10:00")]).source is ExpectationSource.none


def test_what_comparable_buckets_had_is_averaged_and_empty_ones_count_as_zero():
    density = RowDensity(BERLIN, 24)
    density.learn({hour("2026-01-05T03:00"): 0, hour("2026-01-12T03:00"): 3})
    assert density.expect([hour("2026-01-19T03:00")]) == Expectation(1.5, ExpectationSource.history)
    density.learn({hour("2026-01-19T04:00"): 0})
    assert density.expect([hour("2026-01-26T04:00")]) == Expectation(0.0, ExpectationSource.history)


def test_a_weekday_knows_itself_best_then_its_kind_of_day():
    density = RowDensity(BERLIN, 24)
    density.learn({hour("2026-01-05T09:00"): 20, hour("2026-01-06T09:00"): 10})
    assert density.expect([hour("2026-01-12T09:00")]).rows == 20
    assert density.expect([hour("2026-01-13T09:00")]).rows == 10
    assert density.expect([hour("2026-01-14T09:00")]).rows == 15


def test_a_working_day_says_nothing_of_a_sunday():
    density = RowDensity(BERLIN, None)
    density.learn({hour("2026-01-05T09:00"): 20})
    assert density.expect([hour("2026-01-11T09:00")]).source is ExpectationSource.none


def test_hours_are_compared_by_the_local_clock_across_a_clock_change():
    density = RowDensity(BERLIN, None)
    density.learn({hour("2026-03-23T09:00"): 20})
    assert density.expect([hour("2026-03-30T09:00")]).rows == 20


def test_final_are_the_buckets_that_end_at_or_before_the_watermark():
    day = hours("2026-01-05/2026-01-06")
    assert final_buckets(day, day[5].end) == day[:6]
    assert final_buckets(day, day[5].end - timedelta(microseconds=1)) == day[:5]
    assert final_buckets(day, day[0].start) == []


def judged(verdict: Verdict, got: int, length: int | None = None) -> ChunkResult:
    day = Interval.parse("2026-01-05/2026-01-06", BERLIN)
    return ChunkResult(
        day, 10, ExpectationSource.history, got, verdict, 3, 0.5, day.end, got if length is None else length
    )


def test_lengths_are_learned_from_verdicts_and_limits_may_be_lowered_and_raised():
    known = TruncationStats().with_results(
        [judged(Verdict.complete, 1500), judged(Verdict.sparse, 1200), judged(Verdict.unverified, 9000)]
    )
    assert known == TruncationStats(1500, None)
    lowered = known.with_results([judged(Verdict.truncated, 1400, 1450), judged(Verdict.truncated, 1449, 1460)])
    assert lowered == TruncationStats(1449, 1450)
    assert lowered.with_results([judged(Verdict.restated, 700), judged(Verdict.incomplete, 1450)]) == lowered
    assert lowered.with_results([judged(Verdict.complete, 1451)]) == TruncationStats(1451, None)

"""Tests of the completeness rules: expected rows, thresholds and chance."""

import math
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.calendar import Step, list_buckets
from cache_pipeline.query.completeness import (
    RARE_ROWS,
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


@given(st.integers(RARE_ROWS // 5, 1_000_000))
def test_four_fifths_of_the_rows_are_enough(fifth):
    """G22: below 80 % the payload is discarded."""
    assert not falls_short(4 * fifth, 5 * fifth)
    assert falls_short(4 * fifth - 1, 5 * fifth)


@given(st.integers(0, RARE_ROWS - 1), st.floats(0, RARE_ROWS - 0.01))
def test_rare_rows_fall_short_beyond_chance_only(got, expected):
    assert falls_short(got, expected) == (got < 0.8 * expected and got < expected - 2 * math.sqrt(expected))


@pytest.mark.parametrize(
    ("got", "expected", "short"),
    [(14, 24, True), (15, 24, False), (19, 25, True), (20, 25, False), (79, 100, True), (80, 100, False)],
)
def test_chance_is_allowed_for_below_25_expected_rows(got, expected, short):
    assert falls_short(got, expected) is short


def test_zero_expected_rows_never_fall_short():
    assert not falls_short(0, 0)
    assert not part_falls_short(0, 0)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_part_threshold_is_no_stricter_than_the_whole(got, expected):
    if part_falls_short(got, expected):
        assert falls_short(got, expected)


@pytest.mark.parametrize(("got", "expected", "short"), [(0, 16, False), (0, 17, True), (59, 100, True), (60, 100, False),
                                                        (1599, 2000, True), (1600, 2000, False)])  # fmt: skip
def test_part_may_lack_what_chance_explains(got, expected, short):
    assert part_falls_short(got, expected) is short


@pytest.mark.parametrize(("got", "expected", "short"), [(0, 3, False), (0, 4, True), (3, 8, False), (2, 8, True), (12, 20, False),
                                                        (11, 20, True), (80, 100, False), (79, 100, True)])  # fmt: skip
def test_tail_threshold_is_stricter_than_a_part(got, expected, short):
    assert tail_falls_short(got, expected) is short


def test_expectation_without_any_source_is_none():
    assert RowDensity(BERLIN, None).expect(hours("2026-01-05/2026-01-06")) == Expectation(0.0, ExpectationSource.none)


def test_declaration_is_used_without_history():
    assert RowDensity(BERLIN, 24).expect(hours("2026-01-05/2026-01-06")) == Expectation(
        576.0, ExpectationSource.declaration
    )


def test_history_is_preferred_to_the_declaration():
    density = RowDensity(BERLIN, 24)
    density.learn(dict.fromkeys(hours("2026-01-05/2026-01-06"), 10))
    assert density.expect(hours("2026-01-12/2026-01-13")) == Expectation(240.0, ExpectationSource.history)


def test_one_declared_bucket_makes_the_source_declaration():
    density = RowDensity(BERLIN, 24)
    density.learn({hour("2026-01-05T09:00"): 10})
    both = [hour("2026-01-12T09:00"), hour("2026-01-12T10:00")]
    assert density.expect(both) == Expectation(34.0, ExpectationSource.declaration)


def test_one_unknown_bucket_makes_the_expectation_unknown():
    density = RowDensity(BERLIN, None)
    density.learn({hour("2026-01-05T09:00"): 10})
    assert density.expect([hour("2026-01-12T09:00"), hour("2026-01-12T10:00")]).source is ExpectationSource.none


def test_comparable_buckets_are_averaged_with_empty_ones():
    density = RowDensity(BERLIN, 24)
    density.learn({hour("2026-01-05T03:00"): 0, hour("2026-01-12T03:00"): 3})
    assert density.expect([hour("2026-01-19T03:00")]) == Expectation(1.5, ExpectationSource.history)
    density.learn({hour("2026-01-19T04:00"): 0})
    assert density.expect([hour("2026-01-26T04:00")]) == Expectation(0.0, ExpectationSource.history)


def test_same_weekday_is_preferred_to_same_day_kind():
    density = RowDensity(BERLIN, 24)
    density.learn({hour("2026-01-05T09:00"): 20, hour("2026-01-06T09:00"): 10})
    assert density.expect([hour("2026-01-12T09:00")]).rows == 20
    assert density.expect([hour("2026-01-13T09:00")]).rows == 10
    assert density.expect([hour("2026-01-14T09:00")]).rows == 15


def test_working_day_is_not_comparable_to_sunday():
    density = RowDensity(BERLIN, None)
    density.learn({hour("2026-01-05T09:00"): 20})
    assert density.expect([hour("2026-01-11T09:00")]).source is ExpectationSource.none


def test_hours_are_compared_in_local_time_across_dst():
    density = RowDensity(BERLIN, None)
    density.learn({hour("2026-03-23T09:00"): 20})
    assert density.expect([hour("2026-03-30T09:00")]).rows == 20


def test_final_buckets_end_by_the_watermark():
    day = hours("2026-01-05/2026-01-06")
    assert final_buckets(day, day[5].end) == day[:6]
    assert final_buckets(day, day[5].end - timedelta(microseconds=1)) == day[:5]
    assert final_buckets(day, day[0].start) == []


def result(verdict: Verdict, got: int, length: int | None = None) -> ChunkResult:
    day = Interval.parse("2026-01-05/2026-01-06", BERLIN)
    return ChunkResult(
        day, 10, ExpectationSource.history, got, verdict, 3, 0.5, day.end, got if length is None else length
    )


def of_hours(verdict: Verdict, hours: int) -> ChunkResult:
    day = result(verdict, 10).interval
    return replace(result(verdict, 10), interval=Interval(day.start, day.start + timedelta(hours=hours)))


def test_length_is_remembered_after_its_second_failed_job():
    failed = of_hours(Verdict.failed, 12)
    once = TruncationStats().with_results([failed])
    assert once.shortest_refused is None
    assert once.with_results([of_hours(Verdict.failed, 24)]).shortest_refused is None
    assert once.with_results([failed]).shortest_refused == timedelta(hours=12)


def test_answer_of_a_length_shows_that_its_failed_job_was_an_accident():
    failed = of_hours(Verdict.failed, 12)
    for length, limit in ((6, timedelta(hours=12)), (12, None), (24, None)):
        known = TruncationStats().with_results([failed, of_hours(Verdict.unverified, length), failed])
        assert known.shortest_refused == limit


def test_truncation_stats_follow_lowered_and_raised_limits():
    known = TruncationStats().with_results(
        [result(Verdict.complete, 1500), result(Verdict.sparse, 1200), result(Verdict.unverified, 9000)]
    )
    assert known == TruncationStats(1500, None)
    lowered = known.with_results([result(Verdict.truncated, 1400, 1450), result(Verdict.truncated, 1449, 1460)])
    assert lowered == TruncationStats(1449, 1450)
    assert lowered.with_results([result(Verdict.restated, 700), result(Verdict.incomplete, 1450)]) == lowered
    assert lowered.with_results([result(Verdict.complete, 1451)]) == TruncationStats(1451, None)

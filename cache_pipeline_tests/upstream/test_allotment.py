"""The month's allotment: what is used, the pace, and when it runs out."""

from datetime import UTC, date, datetime, timedelta

import pytest

from cache_pipeline.upstream.quota import Allotment

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)


def usage(last: date, per_day: int, days: int) -> dict[date, int]:
    return {last - timedelta(days=number): per_day for number in range(days)}


def test_only_days_of_this_month_are_used_up() -> None:
    month = Allotment.of(10_000, usage(date(2026, 11, 10), 100, 20), NOON)
    assert (month.used, month.remaining) == (1000, 9000)
    # Six whole days and half of today.
    assert month.per_day == pytest.approx(700 / 6.5)
    assert month.runs_out_at is None
    assert month.expected == round(1000 + month.per_day * 20.5)


def test_month_runs_out_at_the_present_pace() -> None:
    month = Allotment.of(2000, usage(date(2026, 11, 9), 130, 7), NOON)
    assert month.runs_out_at == NOON + timedelta(days=(2000 - 910) / month.per_day)
    assert "they run out on 2026-11-" in month.describe()


def test_first_hours_say_little_of_the_pace() -> None:
    month = Allotment.of(1000, {date(2026, 11, 10): 50}, datetime(2026, 11, 10, 1, tzinfo=UTC))
    assert month.per_day == 50


def test_forecast_is_within_a_twentieth_on_day_ten() -> None:
    """With a weekly pattern: busy days of 1,000 and weekends of 300."""
    counts = {
        day: 300 if day.weekday() >= 5 else 1000 for day in (date(2026, 11, 1) + timedelta(days=n) for n in range(30))
    }
    seen = {day: count for day, count in counts.items() if day <= date(2026, 11, 10)}
    month = Allotment.of(30_000, seen, datetime(2026, 11, 11, tzinfo=UTC) - timedelta(seconds=1))
    assert month.expected == pytest.approx(sum(counts.values()), rel=0.05)


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (1240, "1.2 % of the month's 100,000 requests; 0 of 100,000 are used, at 0 a day the month takes 0"),
        (
            200_000,
            "200.0 % of the month's 100,000 requests; 0 of 100,000 are used, at 0 a day the month takes 0; 100,000 more",
        ),
    ],
)
def test_cost_is_said_in_a_sentence(calls: float, words: str) -> None:
    assert Allotment.of(100_000, {}, NOON).describe(calls).startswith(words)


def test_nothing_left_is_said() -> None:
    month = Allotment.of(100, {date(2026, 11, 10): 120}, NOON)
    assert month.describe() == "120 of 100 are used, none are left"
    assert month.runs_out_at == NOON


def test_december_ends_in_the_next_year() -> None:
    assert Allotment.of(1, {}, datetime(2026, 12, 31, 23, tzinfo=UTC)).month_end == datetime(2027, 1, 1, tzinfo=UTC)

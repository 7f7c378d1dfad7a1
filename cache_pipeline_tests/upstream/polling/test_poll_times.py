"""The poll schedule: exactly the guide's, and an adaptive one that omits futile polls."""

import random
from collections.abc import Callable
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_pipeline.upstream.polling import DurationEstimates, GuideSchedule, JobSighting, next_poll

GUIDE = GuideSchedule()
Percent = Callable[[float], float | None]


def polls(
    duration: float, estimates: DurationEstimates, percent: Percent = lambda _: None, since: float = 0.0
) -> list[float]:
    """Return the instants at which a job of that duration is polled, including the poll that finds it done."""
    sightings: list[JobSighting] = []
    while True:
        at = next_poll(GUIDE, since, sightings, estimates)
        if at >= duration:
            return [*(each.at for each in sightings), at]
        sightings.append(JobSighting(at, percent(at / duration)))


def guide_polls(duration: float) -> int:
    return next(poll for poll in range(1, 10_000) if GUIDE.instant(poll) >= duration)


def linear(share: float) -> float:
    return int(share * 100)


def linear_after_queueing(share: float) -> float:
    return max(0, int((share - 0.3) / 0.7 * 100))


durations = st.floats(0.1, 1500)
histories = st.lists(st.tuples(durations, durations).map(sorted), max_size=30)
percentages = st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=9)


def estimates_from(history: list[list[float]]) -> DurationEstimates:
    estimates = DurationEstimates()
    for after, by in history:
        estimates = estimates.with_job(after, by)
    return estimates


def test_guide_schedule_doubles_from_one_to_fifteen_seconds():
    assert [GUIDE.wait(poll) for poll in range(1, 8)] == [1, 2, 4, 8, 15, 15, 15]
    assert [GUIDE.instant(poll) for poll in range(1, 8)] == list(accumulate([1, 2, 4, 8, 15, 15, 15]))
    assert [GUIDE.wait_at(instant) for instant in (0, 0.9, 1, 2.9, 3, 7, 14.9, 15, 29, 400)] == [
        1,
        1,
        2,
        2,
        4,
        8,
        8,
        15,
        15,
        15,
    ]
    assert GuideSchedule(2, 3).instant(4) == 2 + 3 + 3 + 3
    assert GUIDE.wait(10_000) == 15


@given(durations)
def test_cold_start_uses_the_guide_schedule(duration: float):
    expected = [GUIDE.instant(poll) for poll in range(1, guide_polls(duration) + 1)]
    assert polls(duration, DurationEstimates()) == expected
    assert polls(duration, DurationEstimates().with_job(1, 5).with_job(1, 5)) == expected, (
        "two jobs are too few to know anything"
    )


@given(duration=durations, history=histories, reported=percentages)
@example(duration=100.0, history=[[99.0, 100.0]] * 9, reported=[99])
@example(duration=700.0, history=[[0.1, 0.2]] * 30, reported=[None])
def test_no_poll_is_earlier_than_the_guides(duration: float, history: list[list[float]], reported: list[int | None]):
    instants = polls(duration, estimates_from(history), lambda share: reported[int(share * 1000) % len(reported)])
    assert all(at >= GUIDE.instant(number) - 1e-6 for number, at in enumerate(instants, start=1))
    assert len(instants) <= guide_polls(duration)


@given(history=histories, duration=durations)
def test_wait_exceeds_estimates_by_at_most_the_guides_wait(history: list[list[float]], duration: float):
    estimates = estimates_from(history)
    instants = polls(duration, estimates)
    for before, after in zip([0.0, *instants], instants, strict=False):
        bounds = estimates.completion_bounds(before)
        plausible = max(before, bounds[0]) if bounds else before
        assert after - plausible <= GUIDE.wait_at(plausible) + 1e-6


def test_typical_job_is_polled_near_its_expected_end():
    estimates = estimates_from([[295, 305]] * 10)
    assert len(polls(301, estimates)) <= 4
    assert polls(301, estimates)[0] > 250
    assert polls(301, estimates)[-1] - 301 < 15


@pytest.mark.parametrize("percent", [linear, linear_after_queueing])
@pytest.mark.parametrize("duration", [200, 720])
def test_linear_percentages_save_polls_of_the_first_job(percent: Percent, duration: float):
    instants = polls(duration, DurationEstimates(), percent)
    assert len(instants) < guide_polls(duration)
    assert instants[-1] - duration <= 15


def test_unusually_long_job_is_polled_by_the_guide():
    instants = polls(600, estimates_from([[19, 20]] * 10))
    gaps = [after - before for before, after in pairwise(instants)]
    assert gaps[-1] == 15
    assert instants[-1] - 600 <= 15


def test_constant_percentage_is_ignored():
    instants = polls(300, DurationEstimates(), lambda _: 50.0)
    assert instants == polls(300, DurationEstimates())


def test_adopted_job_is_polled_at_once_then_normally():
    assert polls(500, DurationEstimates(), since=450)[:3] == [451, 453, 457]
    estimates = estimates_from([[995, 1005]] * 10)
    assert polls(1000, estimates, since=450)[0] > 850


def test_omitted_polls_add_no_lag():
    dice, estimates = random.Random(3), DurationEstimates()
    adaptive_polls, guide_poll_count, lag, guide_lag = 0, 0, 0.0, 0.0
    for number in range(300):
        duration = 240 * dice.uniform(0.8, 1.2)
        instants = polls(duration, estimates)
        estimates = estimates.with_job(instants[-2] if len(instants) > 1 else 0.0, instants[-1])
        if number >= 20:
            adaptive_polls, guide_poll_count = adaptive_polls + len(instants), guide_poll_count + guide_polls(duration)
            lag, guide_lag = (
                lag + instants[-1] - duration,
                guide_lag + GUIDE.instant(guide_polls(duration)) - duration,
            )
    assert adaptive_polls <= guide_poll_count / 2
    assert lag <= guide_lag


def test_estimates_follow_a_vendor_that_became_faster():
    estimates = estimates_from([[295, 305]] * 30)
    for _ in range(60):
        instants = polls(60, estimates)
        estimates = estimates.with_job(instants[-2] if len(instants) > 1 else 0.0, instants[-1])
    assert polls(60, estimates)[-1] - 60 <= 15


def test_estimates_follow_a_vendor_that_became_slower():
    estimates = estimates_from([[18, 20]] * 30)
    for _ in range(40):
        instants = polls(300, estimates)
        estimates = estimates.with_job(instants[-2] if len(instants) > 1 else 0.0, instants[-1])
    assert len(polls(300, estimates)) <= guide_polls(300) / 2

"""The poll schedule: the guide's to the letter, and one below it that knows when a poll would be futile."""

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
    duration: float, learned: DurationEstimates, percent: Percent = lambda _: None, since: float = 0.0
) -> list[float]:
    """The instants at which a job of that duration is asked for, the one that finds it done included."""
    sightings: list[JobSighting] = []
    while True:
        at = next_poll(GUIDE, since, sightings, learned)
        if at >= duration:
            return [*(each.at for each in sightings), at]
        sightings.append(JobSighting(at, percent(at / duration)))


def guide_polls(duration: float) -> int:
    return next(poll for poll in range(1, 10_000) if GUIDE.instant(poll) >= duration)


def linear(share: float) -> float:
    return int(share * 100)


def after_a_queue(share: float) -> float:
    return max(0, int((share - 0.3) / 0.7 * 100))


durations = st.floats(0.1, 1500)
histories = st.lists(st.tuples(durations, durations).map(sorted), max_size=30)
percentages = st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=9)


def learned_from(history: list[list[float]]) -> DurationEstimates:
    learned = DurationEstimates()
    for after, by in history:
        learned = learned.seen(after, by)
    return learned


def test_the_guides_schedule_doubles_from_one_second_up_to_fifteen():
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
def test_a_cold_start_is_the_guides_schedule(duration: float):
    expected = [GUIDE.instant(poll) for poll in range(1, guide_polls(duration) + 1)]
    assert polls(duration, DurationEstimates()) == expected
    assert polls(duration, DurationEstimates().seen(1, 5).seen(1, 5)) == expected, "two jobs teach nothing yet"


@given(duration=durations, history=histories, told=percentages)
@example(duration=100.0, history=[[99.0, 100.0]] * 9, told=[99])
@example(duration=700.0, history=[[0.1, 0.2]] * 30, told=[None])
def test_whatever_is_known_no_poll_is_earlier_than_the_guides_of_that_number(
    duration: float, history: list[list[float]], told: list[int | None]
):
    instants = polls(duration, learned_from(history), lambda share: told[int(share * 1000) % len(told)])
    assert all(at >= GUIDE.instant(number) - 1e-6 for number, at in enumerate(instants, start=1))
    assert len(instants) <= guide_polls(duration)


@given(history=histories, duration=durations)
def test_without_percentages_no_wait_outlasts_what_was_learned_by_more_than_the_guides(
    history: list[list[float]], duration: float
):
    learned = learned_from(history)
    instants = polls(duration, learned)
    for before, after in zip([0.0, *instants], instants, strict=False):
        bounds = learned.bounds(before)
        plausible = max(before, bounds[0]) if bounds else before
        assert after - plausible <= GUIDE.wait_at(plausible) + 1e-6


def test_a_job_like_those_before_is_asked_for_when_it_should_be_done():
    learned = learned_from([[295, 305]] * 10)
    assert len(polls(301, learned)) <= 4
    assert polls(301, learned)[0] > 250
    assert polls(301, learned)[-1] - 301 < 15


@pytest.mark.parametrize("percent", [linear, after_a_queue])
@pytest.mark.parametrize("duration", [200, 720])
def test_percentages_that_grow_evenly_spare_polls_even_the_first_time(percent: Percent, duration: float):
    instants = polls(duration, DurationEstimates(), percent)
    assert len(instants) < guide_polls(duration)
    assert instants[-1] - duration <= 15


def test_a_job_that_needs_longer_than_all_before_is_asked_for_as_by_the_guide():
    instants = polls(600, learned_from([[19, 20]] * 10))
    gaps = [after - before for before, after in pairwise(instants)]
    assert gaps[-1] == 15
    assert instants[-1] - 600 <= 15


def test_a_percentage_that_stands_still_is_not_waited_for():
    instants = polls(300, DurationEstimates(), lambda _: 50.0)
    assert instants == polls(300, DurationEstimates())


def test_a_job_taken_over_is_asked_for_at_once_and_then_as_any_other():
    assert polls(500, DurationEstimates(), since=450)[:3] == [451, 453, 457]
    learned = learned_from([[995, 1005]] * 10)
    assert polls(1000, learned, since=450)[0] > 850


def test_what_is_left_out_costs_no_lag_where_jobs_vary_by_a_fifth():
    dice, learned = random.Random(3), DurationEstimates()
    ours, guides, lag, guides_lag = 0, 0, 0.0, 0.0
    for number in range(300):
        duration = 240 * dice.uniform(0.8, 1.2)
        instants = polls(duration, learned)
        learned = learned.seen(instants[-2] if len(instants) > 1 else 0.0, instants[-1])
        if number >= 20:
            ours, guides = ours + len(instants), guides + guide_polls(duration)
            lag, guides_lag = (
                lag + instants[-1] - duration,
                guides_lag + GUIDE.instant(guide_polls(duration)) - duration,
            )
    assert ours <= guides / 2
    assert lag <= guides_lag


def test_a_vendor_that_became_faster_is_noticed():
    learned = learned_from([[295, 305]] * 30)
    for _ in range(60):
        instants = polls(60, learned)
        learned = learned.seen(instants[-2] if len(instants) > 1 else 0.0, instants[-1])
    assert polls(60, learned)[-1] - 60 <= 15


def test_a_vendor_that_became_slower_is_noticed():
    learned = learned_from([[18, 20]] * 30)
    for _ in range(40):
        instants = polls(300, learned)
        learned = learned.seen(instants[-2] if len(instants) > 1 else 0.0, instants[-1])
    assert len(polls(300, learned)) <= guide_polls(300) / 2

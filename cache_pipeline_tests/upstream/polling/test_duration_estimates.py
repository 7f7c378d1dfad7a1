"""Estimates of how long jobs take, from polls that only bound it."""

from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.upstream.polling import DurationEstimates

observations = st.lists(st.tuples(st.floats(0, 20_000), st.floats(0, 20_000)), min_size=1, max_size=40)


@given(observations)
def test_new_job_weighs_one_and_older_ones_less(observed: list[tuple[float, float]]):
    estimates, expected = DurationEstimates(), 0.0
    for after, by in observed:
        estimates, expected = estimates.with_job(after, by), expected * 0.95 + 1
    assert abs(sum(estimates.weights.values()) - expected) < 0.1 * expected
    assert all(weight > 0 for weight in estimates.weights.values())


@given(observations, st.floats(0, 20_000))
def test_completion_bounds_are_in_order(observed: list[tuple[float, float]], after: float):
    estimates = DurationEstimates()
    for low, high in observed:
        estimates = estimates.with_job(low, high)
    bounds = estimates.completion_bounds(after)
    assert bounds is None or (bounds[0] <= bounds[1] and bounds[1] >= after)


def test_narrow_observations_give_narrow_bounds():
    estimates = DurationEstimates()
    for _ in range(10):
        estimates = estimates.with_job(58, 62)
    bounds = estimates.completion_bounds(0)
    assert bounds is not None
    assert 45 < bounds[0] < 60 < bounds[1] < 66


def test_uninformative_polls_do_not_raise_the_bounds():
    estimates = DurationEstimates()
    for _ in range(10):
        estimates = estimates.with_job(95, 105)
    before = estimates.completion_bounds(0)
    for _ in range(50):
        estimates = estimates.with_job(0, 130)
    after = estimates.completion_bounds(0)
    assert before is not None
    assert after is not None
    assert after[1] <= 130
    assert after[0] < before[0], "the job may have been done long before the poll, so the next polls are earlier"


def test_nothing_is_known_beyond_all_observations():
    estimates = DurationEstimates()
    for _ in range(10):
        estimates = estimates.with_job(9, 10)
    assert estimates.completion_bounds(5) is not None
    assert estimates.completion_bounds(50) is None
    assert DurationEstimates().completion_bounds(0) is None

"""How long jobs take, learned from polls that only bound it."""

from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.upstream.polling import DurationEstimates

observations = st.lists(st.tuples(st.floats(0, 20_000), st.floats(0, 20_000)), min_size=1, max_size=40)


@given(observations)
def test_every_job_weighs_one_and_older_ones_less(observed: list[tuple[float, float]]):
    learned, expected = DurationEstimates(), 0.0
    for after, by in observed:
        learned, expected = learned.seen(after, by), expected * 0.95 + 1
    assert abs(sum(learned.weights.values()) - expected) < 0.1 * expected
    assert all(weight > 0 for weight in learned.weights.values())


@given(observations, st.floats(0, 20_000))
def test_bounds_lie_in_order(observed: list[tuple[float, float]], after: float):
    learned = DurationEstimates()
    for low, high in observed:
        learned = learned.seen(low, high)
    bounds = learned.bounds(after)
    assert bounds is None or (bounds[0] <= bounds[1] and bounds[1] >= after)


def test_jobs_seen_done_within_narrow_bounds_are_known_to_end_there():
    learned = DurationEstimates()
    for _ in range(10):
        learned = learned.seen(58, 62)
    bounds = learned.bounds(0)
    assert bounds is not None
    assert 45 < bounds[0] < 60 < bounds[1] < 66


def test_one_more_look_that_says_nothing_new_does_not_move_what_is_known_upwards():
    learned = DurationEstimates()
    for _ in range(10):
        learned = learned.seen(95, 105)
    before = learned.bounds(0)
    for _ in range(50):
        learned = learned.seen(0, 130)
    after = learned.bounds(0)
    assert before is not None
    assert after is not None
    assert after[1] <= 130
    assert after[0] < before[0], "it may have been done long before the look, so the next looks are earlier"


def test_beyond_everything_seen_nothing_is_known():
    learned = DurationEstimates()
    for _ in range(10):
        learned = learned.seen(9, 10)
    assert learned.bounds(5) is not None
    assert learned.bounds(50) is None
    assert DurationEstimates().bounds(0) is None

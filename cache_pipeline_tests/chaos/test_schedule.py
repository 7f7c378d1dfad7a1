"""The schedule is the same for the same seed, and varied from its beginning."""

from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline_tests.chaos.schedule import FAULTS, KILLED, LINKS, schedule

SEEDS = st.integers(0, 10_000)
#: How many strikes there are until each kind has come once: two come twice.
_A_DECK = len(KILLED) + 3 * len(LINKS) + len(FAULTS) + 3 + 2


@given(SEEDS)
def test_the_same_seed_gives_the_same_schedule(seed):
    assert schedule(seed, 60) == schedule(seed, 60)


@given(SEEDS)
def test_everything_is_mended_before_the_end(seed):
    strikes = schedule(seed, 60)
    assert all(strike.at + strike.seconds <= 60 for strike in strikes)
    assert [strike.at for strike in strikes] == sorted(strike.at for strike in strikes)


@given(SEEDS)
def test_every_kind_strikes_before_any_comes_a_third_time(seed):
    struck = {(strike.kind, strike.target) for strike in schedule(seed, 600)[:_A_DECK]}
    assert {target for kind, target in struck if kind == "kill"} == set(KILLED)
    assert {target for kind, target in struck if kind == "fault"} == set(FAULTS)
    assert all((kind, link) in struck for kind in ("cut", "stall", "slow") for link in LINKS)
    assert {("truncation", "answers"), ("disk", "edge"), ("restatement", "final figures")} <= struck


def test_another_seed_gives_another_schedule():
    assert schedule(1, 60) != schedule(2, 60)

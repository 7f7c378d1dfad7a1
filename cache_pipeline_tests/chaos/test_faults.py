"""Tests for the schedule of faults: reproducible, and varied from its beginning."""

from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline_tests.chaos.faults import (
    FAILOVERS,
    KILL_TARGETS,
    PROXY_TARGETS,
    REDIS_STATES,
    VENDOR_FAULTS,
    make_schedule,
)

SEEDS = st.integers(0, 10_000)
#: Number of faults until each has come once: killed workers come twice.
_DECK_SIZE = len(KILL_TARGETS) + 3 * len(PROXY_TARGETS) + len(VENDOR_FAULTS) + len((*REDIS_STATES, *FAILOVERS)) + 5 + 2


@given(SEEDS)
def test_same_seed_gives_same_schedule(seed):
    assert make_schedule(seed, 60) == make_schedule(seed, 60)


@given(SEEDS)
def test_faults_end_before_the_run_ends(seed):
    faults = make_schedule(seed, 60)
    assert all(fault.at + fault.seconds <= 60 for fault in faults)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)


@given(SEEDS)
def test_every_fault_comes_before_any_third_repeat(seed):
    seen = {(fault.kind, fault.target) for fault in make_schedule(seed, 600)[:_DECK_SIZE]}
    assert {target for kind, target in seen if kind == "kill"} == set(KILL_TARGETS)
    assert {target for kind, target in seen if kind == "fault"} == set(VENDOR_FAULTS)
    assert all((kind, target) in seen for kind in ("cut", "stall", "slow") for target in PROXY_TARGETS)
    assert {(state, "redis") for state in REDIS_STATES} <= seen
    assert {*FAILOVERS, ("half_requests", "api"), ("slow_readers", "api")} <= seen
    assert {("truncation", "answers"), ("disk", "edge"), ("restatement", "final figures")} <= seen


def test_different_seeds_give_different_schedules():
    assert make_schedule(1, 60) != make_schedule(2, 60)

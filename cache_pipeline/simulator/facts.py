"""The facts of calls: which calls emit one, when, and with how many milliseconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from cache_pipeline.simulator.calls import Calls, Flags
from cache_pipeline.simulator.intervals import Milliseconds


class Moment(Enum):
    """The moment in a call at which a fact is emitted."""

    OFFERED = "offered"
    RESOLVED = "answered or abandoned"
    ENDED = "after-call work done"


@dataclass(frozen=True)
class Fact:
    """A fact about calls.

    Attributes:
        moment: When it is emitted.
        applies: Selects the calls that emit it.
        amount: Its milliseconds for each call.
    """

    moment: Moment
    applies: Callable[[Calls], Flags]
    amount: Callable[[Calls], Milliseconds]


def _all_calls(calls: Calls) -> Flags:
    return np.ones(len(calls.offered_ms), dtype=np.bool_)


def _no_amount(calls: Calls) -> Milliseconds:
    return np.zeros(len(calls.offered_ms), dtype=np.int64)


FACTS: Mapping[str, Fact] = {
    "offered": Fact(Moment.OFFERED, _all_calls, _no_amount),
    "flow": Fact(Moment.OFFERED, lambda calls: calls.flow_ms > 0, lambda calls: calls.flow_ms),
    "resolved": Fact(Moment.RESOLVED, _all_calls, _no_amount),
    "answered": Fact(Moment.RESOLVED, lambda calls: ~calls.abandoned, lambda calls: calls.wait_ms),
    "abandoned": Fact(Moment.RESOLVED, lambda calls: calls.abandoned, lambda calls: calls.wait_ms),
    "in_target": Fact(Moment.RESOLVED, lambda calls: calls.met, _no_amount),
    "over_target": Fact(Moment.RESOLVED, lambda calls: ~calls.abandoned & ~calls.met, _no_amount),
    "talk": Fact(Moment.ENDED, _all_calls, lambda calls: calls.talk_ms),
    "held": Fact(Moment.ENDED, lambda calls: calls.held_ms > 0, lambda calls: calls.held_ms),
    "after_call": Fact(Moment.ENDED, _all_calls, lambda calls: calls.acw_ms),
    "handle": Fact(Moment.ENDED, _all_calls, lambda calls: calls.talk_ms + calls.held_ms + calls.acw_ms),
    "single": Fact(Moment.ENDED, _all_calls, lambda calls: np.ones_like(calls.offered_ms)),
    "transferred": Fact(Moment.ENDED, lambda calls: calls.transferred, _no_amount),
}

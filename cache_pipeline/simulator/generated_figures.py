"""Figures and dimensions of what the simulator knows nothing of: bots, surveys, tasks and the like.

Nothing here follows from what a vendor says but the names. Each is drawn from the calls and its own name, so that it is the same
for the same seed, adds up over intervals and groups, and has the queue, medium, agent and division of the call it hangs on. It is
emitted when the call has ended, and counts of distinct ones count them all.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from cache_pipeline.simulator.calls import Calls, Codes, Flags
from cache_pipeline.simulator.facts import Fact, Moment
from cache_pipeline.simulator.intervals import Milliseconds

_LONGEST_MS = 240_000
_LARGEST = 100


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def _draws(calls: Calls, name: str) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each call, as good as random and always the same."""
    # An odd factor keeps all bits of the word; the high ones are the well mixed.
    mixed = (calls.id_words[:, 1] ^ np.uint64(_number(name))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def made_up_codes(calls: Calls, dimension: str, size: int) -> Codes:
    """Return the code of a made-up dimension by call; every call has a value."""
    return (_draws(calls, dimension) * size).astype(np.int64)


def made_up_fact(metric: str) -> Fact:
    """Return the figure of a metric: a duration for t, a value from 0 to 100 for o, else nothing but the event."""
    share = 0.1 + _number(metric) % 400 / 1000

    def applies(calls: Calls) -> Flags:
        return _draws(calls, f"{metric} happens") < share

    def amount(calls: Calls) -> Milliseconds:
        largest = {"t": _LONGEST_MS, "o": _LARGEST + 1}.get(metric[0], 0)
        return (_draws(calls, metric) * largest).astype(np.int64)

    return Fact(Moment.ENDED, applies, amount)

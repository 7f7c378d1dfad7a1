"""Generated facts and dimensions for families without a simulation behind them: bots, surveys, tasks and others.

Only the names come from the vendor. Each value is derived from a call and the name, so that it is equal for equal seeds, adds up
over intervals and groups, and has the queue, medium, agent and division of its call. It is emitted when the call has ended, or
in families that judge a call afterwards (`LATE_FAMILIES`) within weeks of its end. Distinct counts are ordinary counts here.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from cache_pipeline.simulator.calls import Calls, Codes, Flags
from cache_pipeline.simulator.facts import Fact, Moment
from cache_pipeline.simulator.intervals import Milliseconds

_MAX_DURATION_MS = 240_000
_MAX_VALUE = 100
_DAY_MS = 86_400_000
#: Families of what people do with an ended call within days or weeks.
LATE_FAMILIES = ("evaluations", "surveys")
#: The vendor mentions scores that come up to 45 days later.
MAX_LATENESS_DAYS = 45
_MEAN_LATENESS_DAYS = 10


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def _uniform(calls: Calls, name: str) -> npt.NDArray[np.float64]:
    """Return a pseudo-random number in [0, 1) for each call, always the same for the same name."""
    # An odd factor loses no bits of the word; the high bits are mixed best.
    mixed = (calls.id_words[:, 1] ^ np.uint64(_hash(name))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def generated_codes(calls: Calls, dimension: str, size: int) -> Codes:
    """Return the code of a generated dimension for each call; every call has a value."""
    return (_uniform(calls, dimension) * size).astype(np.int64)


def lateness_ms(calls: Calls) -> Milliseconds:
    """Return how long after its end each call is evaluated: half of them within days, a few after weeks."""
    days = np.minimum(-np.log1p(-_uniform(calls, "lateness")) * _MEAN_LATENESS_DAYS, MAX_LATENESS_DAYS)
    return (days * _DAY_MS).astype(np.int64)


def generated_fact(metric: str) -> Fact:
    """Return the fact of a metric: a duration for t, a value from 0 to 100 for o, otherwise only the event."""
    share = 0.1 + _hash(metric) % 400 / 1000

    def applies(calls: Calls) -> Flags:
        return _uniform(calls, f"{metric} happens") < share

    def amount(calls: Calls) -> Milliseconds:
        largest = {"t": _MAX_DURATION_MS, "o": _MAX_VALUE + 1}.get(metric[0], 0)
        return (_uniform(calls, metric) * largest).astype(np.int64)

    return Fact(Moment.ENDED, applies, amount)

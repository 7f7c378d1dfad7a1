"""How long jobs of one kind take, learned from polls that only ever say: not yet, and done by now."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Bins are a twelfth of an octave wide, so 6 %: finer than jobs of one kind vary.
_BINS_AN_OCTAVE = 12
_SHORTEST, _LONGEST = 0.05, 4 * 3600.0
# What was seen before counts so much less with every job: the last twenty or so decide.
_KEPT = 0.95
# Of a job that was done at the first look, so much is put where it may have been done long before: else a vendor that has
# become faster would never be noticed.
_DOUBT = 0.1
# Below the weight of three jobs nothing is known.
_ENOUGH = 2.7
# A job may be done once one in fifty was, and a little sooner.
_LOW, _SOONER = 0.02, 0.1


@dataclass(frozen=True)
class DurationEstimates:
    """A histogram of seconds from submit to done, its bins of equal ratio.

    Attributes:
        weights: Bin number to its weight; a job seen just now weighs 1.
    """

    weights: Mapping[int, float] = field(default_factory=dict[int, float])

    def seen(self, after: float, by: float) -> "DurationEstimates":
        """With one more job, which took more than `after` and at most `by` seconds.

        Within those bounds it counts where jobs were before; where none was, evenly.
        """
        by = min(max(by, _SHORTEST), _LONGEST)
        after = min(max(after, by / 8, _SHORTEST / 2), by * 0.999)
        span = _shares(after, by)
        before = {number: self.weights.get(number, 0.0) * _covered(number, after, by) for number in span}
        known = sum(before.values())
        doubted = _DOUBT if known > 0 else 1.0
        doubtful = _shares(max(after, by / 2), by)
        weights = {number: weight * _KEPT for number, weight in self.weights.items()}
        for number in span:
            trusted = (1 - doubted) * before[number] / known if known > 0 else 0.0
            weights[number] = weights.get(number, 0.0) + trusted + doubted * doubtful.get(number, 0.0)
        return DurationEstimates({number: weight for number, weight in weights.items() if weight > 1e-3})

    def bounds(self, after: float) -> tuple[float, float] | None:
        """Between which instants most jobs end that are not done `after` so many seconds.

        None where too few were seen, or hardly any took so long.
        """
        left = self._left(after)
        if left is None:
            return None
        return _quantile(left, _LOW) * (1 - _SOONER), _quantile(left, 1 - _LOW)

    def _left(self, after: float) -> dict[int, float] | None:
        """The shares, bin by bin without a gap, of the jobs that are not done `after` so many seconds."""
        total = sum(self.weights.values())
        left = {
            number: self.weights.get(number, 0.0) * (1 - _covered(number, 0.0, after))
            for number in range(min(self.weights, default=0), max(self.weights, default=-1) + 1)
            if _edge(number + 1) > after
        }
        remaining = sum(left.values())
        if total < _ENOUGH or remaining < total * _LOW:
            return None
        return {number: weight / remaining for number, weight in left.items()}


def _quantile(weights: Mapping[int, float], wanted: float) -> float:
    so_far, number = 0.0, 0
    for number, weight in weights.items():
        if weight > 0 and so_far + weight >= wanted:
            return _edge(number + (wanted - so_far) / weight)
        so_far += weight
    return _edge(number + 1)


def _edge(number: float) -> float:
    """The lower end of a bin."""
    return _SHORTEST * 2 ** (number / _BINS_AN_OCTAVE)


def _place(seconds: float) -> float:
    return _BINS_AN_OCTAVE * math.log2(seconds / _SHORTEST)


def _covered(number: int, after: float, by: float) -> float:
    """Which share of a bin lies between two durations."""
    low = _place(after) if after > 0 else -math.inf
    return max(0.0, min(number + 1, _place(by)) - max(number, low)) if by > 0 else 0.0


def _shares(after: float, by: float) -> dict[int, float]:
    """Bins between two durations, each with its share of the whole."""
    numbers = range(math.floor(_place(after)), math.ceil(_place(by)))
    covered = {number: _covered(number, after, by) for number in numbers}
    whole = sum(covered.values())
    return {number: share / whole for number, share in covered.items()} if whole > 0 else {numbers[0]: 1.0}

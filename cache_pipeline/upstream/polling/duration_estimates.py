"""Estimates how long jobs of one kind take from polls, which only say "not yet" or "done by now"."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Bins are a twelfth of an octave wide, so 6 %: finer than the variation among jobs of one kind.
_BINS_PER_OCTAVE = 12
_MIN_SECONDS, _MAX_SECONDS = 0.05, 4 * 3600.0
# Earlier jobs count this much less with every new job, so that the last twenty or so decide.
_DECAY = 0.95
# Share of a job's weight that goes to the upper half of its bounds regardless of earlier jobs. Otherwise a vendor that has become
# faster would never be noticed.
_UNINFORMED_SHARE = 0.1
# Below the weight of three jobs nothing is known.
_MIN_WEIGHT = 2.7
# Polling starts when one job in fifty would be done, and a little earlier.
_TAIL_SHARE, _EARLY_SHARE = 0.02, 0.1


@dataclass(frozen=True)
class DurationEstimates:
    """A histogram of seconds from submit to completion, with bins of equal ratio.

    Attributes:
        weights: Bin number to its weight; the most recent job weighs 1.
    """

    weights: Mapping[int, float] = field(default_factory=dict[int, float])

    def with_job(self, after: float, by: float) -> "DurationEstimates":
        """Return estimates with one more job, which took more than `after` and at most `by` seconds.

        Within those bounds its weight is distributed like earlier jobs; if there were none, evenly.
        """
        by = min(max(by, _MIN_SECONDS), _MAX_SECONDS)
        after = min(max(after, by / 8, _MIN_SECONDS / 2), by * 0.999)
        span = _bin_shares(after, by)
        before = {number: self.weights.get(number, 0.0) * _covered_share(number, after, by) for number in span}
        known = sum(before.values())
        uninformed_share = _UNINFORMED_SHARE if known > 0 else 1.0
        uninformed = _bin_shares(max(after, by / 2), by)
        weights = {number: weight * _DECAY for number, weight in self.weights.items()}
        for number in span:
            informed = (1 - uninformed_share) * before[number] / known if known > 0 else 0.0
            weights[number] = weights.get(number, 0.0) + informed + uninformed_share * uninformed.get(number, 0.0)
        return DurationEstimates({number: weight for number, weight in weights.items() if weight > 1e-3})

    def completion_bounds(self, after: float) -> tuple[float, float] | None:
        """Return between which instants most jobs end that are not done after `after` seconds.

        None if too few jobs are known, or hardly any took that long.
        """
        remaining = self._remaining_shares(after)
        if remaining is None:
            return None
        return _quantile(remaining, _TAIL_SHARE) * (1 - _EARLY_SHARE), _quantile(remaining, 1 - _TAIL_SHARE)

    def _remaining_shares(self, after: float) -> dict[int, float] | None:
        """Return the shares, bin by bin without a gap, of the jobs that are not done after `after` seconds."""
        total = sum(self.weights.values())
        remaining = {
            number: self.weights.get(number, 0.0) * (1 - _covered_share(number, 0.0, after))
            for number in range(min(self.weights, default=0), max(self.weights, default=-1) + 1)
            if _bin_start(number + 1) > after
        }
        remaining_total = sum(remaining.values())
        if total < _MIN_WEIGHT or remaining_total < total * _TAIL_SHARE:
            return None
        return {number: weight / remaining_total for number, weight in remaining.items()}


def _quantile(weights: Mapping[int, float], share: float) -> float:
    cumulative, number = 0.0, 0
    for number, weight in weights.items():
        if weight > 0 and cumulative + weight >= share:
            return _bin_start(number + (share - cumulative) / weight)
        cumulative += weight
    return _bin_start(number + 1)


def _bin_start(number: float) -> float:
    """Return the lower end of a bin in seconds."""
    return _MIN_SECONDS * 2 ** (number / _BINS_PER_OCTAVE)


def _bin_position(seconds: float) -> float:
    return _BINS_PER_OCTAVE * math.log2(seconds / _MIN_SECONDS)


def _covered_share(number: int, after: float, by: float) -> float:
    """Return the share of a bin that is between two durations."""
    low = _bin_position(after) if after > 0 else -math.inf
    return max(0.0, min(number + 1, _bin_position(by)) - max(number, low)) if by > 0 else 0.0


def _bin_shares(after: float, by: float) -> dict[int, float]:
    """Return the bins between two durations, each with its share of the whole."""
    numbers = range(math.floor(_bin_position(after)), math.ceil(_bin_position(by)))
    covered = {number: _covered_share(number, after, by) for number in numbers}
    total = sum(covered.values())
    return {number: share / total for number, share in covered.items()} if total > 0 else {numbers[0]: 1.0}

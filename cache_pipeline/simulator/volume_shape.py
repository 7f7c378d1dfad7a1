"""Daily and weekly pattern of a call centre's volume, and the distribution over queues."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from cache_pipeline.simulator.intervals import Milliseconds, from_ms, midnight_ms

Weights = npt.NDArray[np.float64]

_STEP_MS = 15 * 60_000
# The average from Monday to Friday is 1, so that it matches `conversations_per_working_day`.
_WEEKDAYS = (1.22, 1.04, 0.98, 0.94, 0.82, 0.32, 0.14)
# Relative to the morning peak: a few calls an hour at night, a dip at lunch, a second, lower peak.
_HOURS = (
    *(0.008, 0.006, 0.005, 0.005, 0.006, 0.012),
    *(0.05, 0.25, 0.65, 0.95, 1.0, 0.92),
    *(0.62, 0.70, 0.88, 0.85, 0.72, 0.50),
    *(0.28, 0.16, 0.09, 0.05, 0.025, 0.012),
)


def weekday_factor(day: date) -> float:
    """Return the volume of `day` relative to an average working day."""
    return _WEEKDAYS[day.weekday()]


def day_profile(day: date, zone: ZoneInfo) -> tuple[Milliseconds, Weights]:
    """Return the starts of the quarter hours of `day` and the share of the day's calls in each.

    A DST day has 92 or 100 quarter hours; each has the weight of its local hour.
    """
    starts = np.arange(midnight_ms(day, zone), midnight_ms(day + timedelta(days=1), zone), _STEP_MS, dtype=np.int64)
    hours = [from_ms(int(start)).astimezone(zone).hour for start in starts]
    weights = np.array([_HOURS[hour] for hour in hours])
    return starts, weights / weights.sum()


def quarter_hour_ms() -> int:
    """Return the length of a quarter hour in milliseconds."""
    return _STEP_MS


def zipf_weights(count: int) -> Weights:
    """Return descending shares that add up to 1: the n-th is 1/n of the first."""
    weights = 1.0 / np.arange(1, count + 1)
    return weights / weights.sum()

"""The shape of a call centre's days and weeks: when people call, and which queue and medium they choose."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from cache_pipeline.simulator.intervals import Milliseconds, from_ms, midnight_ms

Weights = npt.NDArray[np.float64]

_STEP_MS = 15 * 60_000
# Monday to Friday average 1, so that a "working day" means what the setting says.
_WEEKDAYS = (1.22, 1.04, 0.98, 0.94, 0.82, 0.32, 0.14)
# Relative to the morning peak: nights a few calls an hour, a dip at lunch, a second and lower peak.
_HOURS = (
    *(0.008, 0.006, 0.005, 0.005, 0.006, 0.012),
    *(0.05, 0.25, 0.65, 0.95, 1.0, 0.92),
    *(0.62, 0.70, 0.88, 0.85, 0.72, 0.50),
    *(0.28, 0.16, 0.09, 0.05, 0.025, 0.012),
)


def weekday_factor(day: date) -> float:
    """Return the volume of `day` relative to a mean working day."""
    return _WEEKDAYS[day.weekday()]


def day_profile(day: date, zone: ZoneInfo) -> tuple[Milliseconds, Weights]:
    """Return the starts of the quarter hours of `day` and the share of the day's calls in each.

    A DST day has 92 or 100 quarter hours; each takes the weight of its wall-clock hour.
    """
    starts = np.arange(midnight_ms(day, zone), midnight_ms(day + timedelta(days=1), zone), _STEP_MS, dtype=np.int64)
    hours = [from_ms(int(start)).astimezone(zone).hour for start in starts]
    weights = np.array([_HOURS[hour] for hour in hours])
    return starts, weights / weights.sum()


def quarter_hour_ms() -> int:
    """Return the length of a step of `day_profile`."""
    return _STEP_MS


def zipf_weights(count: int) -> Weights:
    """Return falling shares that add up to 1: the n-th is 1/n of the first."""
    weights = 1.0 / np.arange(1, count + 1)
    return weights / weights.sum()

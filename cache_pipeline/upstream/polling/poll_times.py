"""Decides when to poll a job next, as a pure function of what is known about it.

Two rules always hold. Poll number k is never earlier than the guide's poll number k, so a job is never polled more often than by
the guide. And if nothing is known, the wait is the guide's.

Something is known if jobs of this kind were observed before, or if the vendor reports percentages and two in a row project the
same end. Then the job is not polled until it may be done. From then on it is polled somewhat more often than by the guide, using
the polls saved before. If the estimate turns out to be wrong, the guide's waits follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cache_pipeline.upstream.polling.duration_estimates import DurationEstimates
from cache_pipeline.upstream.polling.guide_schedule import GuideSchedule

# Waits around the expected end, as a share of the guide's.
_WAIT_SHARE_NEAR_END = 0.85
# Percentages below this are too coarse to project an end.
_MIN_PERCENT = 10.0
# Two projected ends agree if they differ by no more than this share.
_AGREEMENT_SHARE = 0.1
# Share of the projected remaining time in which the job is not polled; that time is also at most half of the job's age.
_PROJECTED_WAIT_SHARE = 0.9


@dataclass(frozen=True)
class JobSighting:
    """One poll that found the job unfinished.

    Attributes:
        at: Seconds since the job was submitted.
        percent: Reported progress, 0 to 100; None if the vendor reports none.
    """

    at: float
    percent: float | None = None


def next_poll(
    guide: GuideSchedule, since: float, sightings: Sequence[JobSighting], estimates: DurationEstimates
) -> float:
    """Return the instant of the next poll, in seconds since the job was submitted.

    Args:
        guide: The schedule that is never exceeded.
        since: The instant at which this process began polling; 0 unless it took the job over.
        sightings: Its polls so far, the latest last.
        estimates: How long such jobs took.
    """
    at = sightings[-1].at if sightings else since
    estimated, projected = estimates.completion_bounds(at), _projected_bounds(sightings)
    # If a job's own percentages project a later end than any job of its kind had, use the estimate instead.
    bounds = projected if projected and (estimated is None or projected[1] <= estimated[1]) else estimated
    if bounds is None:
        wait = guide.wait_at(at - since)
    else:
        earliest, latest = max(at, bounds[0]), bounds[1]
        near_end = guide.wait_at(earliest - since) * _WAIT_SHARE_NEAR_END
        wait = max(min(earliest + near_end, latest) - at, guide.wait_at(at - since) * _WAIT_SHARE_NEAR_END)
    return max(since + guide.instant(len(sightings) + 1), at + wait)


def _projected_bounds(sightings: Sequence[JobSighting]) -> tuple[float, float] | None:
    """Return between which instants the job ends by its own percentages; None if they do not show it."""
    points = [(each.at, each.percent) for each in sightings if each.percent is not None]
    if len(points) < 2 or points[-1][1] < _MIN_PERCENT:
        return None
    start = points[-3] if len(points) > 2 and points[-3][1] > 0 else (0.0, 0.0)
    previous_end, current_end = _projected_end(start, points[-2]), _projected_end(points[-2], points[-1])
    if previous_end is None or current_end is None or abs(previous_end - current_end) > _AGREEMENT_SHARE * current_end:
        return None
    at = points[-1][0]
    earlier = min(previous_end, current_end)
    return at + min((earlier - at) * _PROJECTED_WAIT_SHARE, at / 2), max(previous_end, current_end)


def _projected_end(first: tuple[float, float], second: tuple[float, float]) -> float | None:
    """Return the instant at which a straight line through two points reaches 100 percent."""
    if second[1] <= first[1] or second[0] <= first[0]:
        return None
    return second[0] + (100.0 - second[1]) * (second[0] - first[0]) / (second[1] - first[1])

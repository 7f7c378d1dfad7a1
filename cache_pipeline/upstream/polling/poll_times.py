"""When to ask for a job again, as a pure function of what is known of it.

Two things hold whatever is known: poll number k is never earlier than the guide's poll number k, so a job is never polled
more often than by the guide; and where nothing is known, the wait is the guide's.

Something is known where jobs of this kind were seen before, or where the vendor says how far this one is and has twice told
the same end. The job is then left alone until it may be done; from then on it is asked for somewhat more often than the
guide would, which what was saved before pays for. If what is known turns out wrong, the guide's waits follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cache_pipeline.upstream.polling.duration_estimates import DurationEstimates
from cache_pipeline.upstream.polling.guide_schedule import GuideSchedule

# Waits around the expected end, as a share of the guide's.
_NEAR_THE_END = 0.85
# Percentages below this are too coarse to tell an end, and two ends are the same if they differ by no more than this share.
_TELLING_PERCENT = 10.0
_AGREED = 0.1
# Of the time that a job says it needs it is left alone for so much, and never for longer than it has taken already.
_BELIEVED = 0.9


@dataclass(frozen=True)
class JobSighting:
    """One poll that found the job unfinished.

    Attributes:
        at: Seconds since the job was submitted.
        percent: How far it said it was, 0 to 100; None where the vendor does not say.
    """

    at: float
    percent: float | None = None


def next_poll(
    guide: GuideSchedule, since: float, sightings: Sequence[JobSighting], learned: DurationEstimates
) -> float:
    """The instant of the next poll, in seconds since the job was submitted.

    Args:
        guide: The schedule that is never exceeded.
        since: The instant from which this process has been polling; 0 unless it took the job over.
        sightings: Its polls so far, the latest last.
        learned: How long such jobs took.
    """
    at = sightings[-1].at if sightings else since
    usual, told = learned.bounds(at), _told_bounds(sightings)
    # A job that says it needs longer than any other is not believed before it has.
    bounds = told if told and (usual is None or told[1] <= usual[1]) else usual
    if bounds is None:
        wait = guide.wait_at(at - since)
    else:
        soonest, latest = max(at, bounds[0]), bounds[1]
        near = guide.wait_at(soonest - since) * _NEAR_THE_END
        wait = max(min(soonest + near, latest) - at, guide.wait_at(at - since) * _NEAR_THE_END)
    return max(since + guide.instant(len(sightings) + 1), at + wait)


def _told_bounds(sightings: Sequence[JobSighting]) -> tuple[float, float] | None:
    """Between which instants the job ends by its own percentages; None where they do not tell."""
    told = [(each.at, each.percent) for each in sightings if each.percent is not None]
    if len(told) < 2 or told[-1][1] < _TELLING_PERCENT:
        return None
    start = told[-3] if len(told) > 2 and told[-3][1] > 0 else (0.0, 0.0)
    before, now = _end(start, told[-2]), _end(told[-2], told[-1])
    if before is None or now is None or abs(before - now) > _AGREED * now:
        return None
    at = told[-1][0]
    sooner = min(before, now)
    return at + min((sooner - at) * _BELIEVED, at / 2), max(before, now)


def _end(one: tuple[float, float], other: tuple[float, float]) -> float | None:
    """The instant at which a straight line through two points reaches 100 percent."""
    if other[1] <= one[1] or other[0] <= one[0]:
        return None
    return other[0] + (100.0 - other[1]) * (other[0] - one[0]) / (other[1] - one[1])

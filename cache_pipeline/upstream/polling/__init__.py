"""When to poll a job: the guide's schedule (G3), and an adaptive one that omits polls which would be futile."""

from cache_pipeline.upstream.polling.duration_estimates import DurationEstimates
from cache_pipeline.upstream.polling.guide_schedule import GuideSchedule
from cache_pipeline.upstream.polling.poll_times import JobSighting, next_poll
from cache_pipeline.upstream.polling.poller import DurationMemory, JobPoller, PollPolicy

__all__ = [
    "DurationEstimates",
    "DurationMemory",
    "GuideSchedule",
    "JobPoller",
    "JobSighting",
    "PollPolicy",
    "next_poll",
]

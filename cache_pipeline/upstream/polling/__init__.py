"""When to ask a job again: the guide's schedule (G3), and below it one that leaves out polls which would be futile."""

from cache_pipeline.upstream.polling.duration_estimates import Durations
from cache_pipeline.upstream.polling.duration_store import DurationStore
from cache_pipeline.upstream.polling.guide_schedule import Guide
from cache_pipeline.upstream.polling.poll_times import Sighting, next_poll
from cache_pipeline.upstream.polling.poller import Memory, Pacing, PollPolicy

__all__ = ["DurationStore", "Durations", "Guide", "Memory", "Pacing", "PollPolicy", "Sighting", "next_poll"]

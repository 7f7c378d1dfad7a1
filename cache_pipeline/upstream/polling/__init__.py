"""When to ask a job again: the guide's schedule (G3), and below it one that leaves out polls which would be futile."""

from cache_pipeline.upstream.polling.durations import Durations
from cache_pipeline.upstream.polling.guide import Guide
from cache_pipeline.upstream.polling.pacing import Memory, Pacing, PollPolicy
from cache_pipeline.upstream.polling.schedule import Sighting, next_poll
from cache_pipeline.upstream.polling.store import DurationStore

__all__ = ["DurationStore", "Durations", "Guide", "Memory", "Pacing", "PollPolicy", "Sighting", "next_poll"]

"""The message queue between the HTTP API and its workers, behind a small port."""

from cache_pipeline.api.jobs.queue.brokers import open_queue
from cache_pipeline.api.jobs.queue.port import Delivery, JobQueue
from cache_pipeline.errors import QueueUnavailable

__all__ = ["Delivery", "JobQueue", "QueueUnavailable", "open_queue"]

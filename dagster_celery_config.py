"""Celery's settings for workers that execute whole Dagster runs: ``celery -A dagster_celery.app worker`` imports this.

The name is the one that dagster-celery looks for. ``dagster.celery.yaml`` holds the launcher's half; docs/scaling.md
says which halves go together.
"""

import os

#: Longer than ``run_monitoring.max_runtime_seconds``: a result that expired reads as a run that never was.
_LONGEST_RUN_SECONDS = 2 * 24 * 3600

broker_url = os.environ["CACHE_PIPELINE_CELERY_BROKER_URL"]
# Not the default rpc://, by which the daemon cannot see that a run is going on and fails it.
result_backend = os.environ["CACHE_PIPELINE_CELERY_BACKEND_URL"]
result_expires = _LONGEST_RUN_SECONDS
task_track_started = True

# A run waits in the queue, where the other worker can take it, and not inside a worker that is busy.
worker_prefetch_multiplier = 1
worker_disable_prefetch = broker_url.startswith("redis")
# Redis hands a message out again after this long, whether its worker lives or not.
broker_transport_options = {"visibility_timeout": _LONGEST_RUN_SECONDS}
# A fresh process now and then, so that what a library leaks does not add up.
worker_max_tasks_per_child = 50
broker_connection_retry_on_startup = True

"""Celery settings of workers that execute whole Dagster runs, imported by ``celery -A dagster_celery.app worker``.

dagster-celery looks for a module of this name. The settings of the launcher are in ``dagster.celery.yaml``; docs/scaling.md
says how both fit together.
"""

import os

#: Longer than ``run_monitoring.max_runtime_seconds``: a run whose result has expired looks as if it had never existed.
_MAX_RUN_SECONDS = 2 * 24 * 3600

broker_url = os.environ["CACHE_PIPELINE_CELERY_BROKER_URL"]
# With the default rpc:// the daemon cannot see that a run is in progress, and marks it as failed.
result_backend = os.environ["CACHE_PIPELINE_CELERY_BACKEND_URL"]
result_expires = _MAX_RUN_SECONDS
task_track_started = True

# A run waits in the queue, where any worker can take it, and not inside a busy worker.
worker_prefetch_multiplier = 1
worker_disable_prefetch = broker_url.startswith("redis")
# Redis redelivers a message after this time, even if its worker is alive.
broker_transport_options = {"visibility_timeout": _MAX_RUN_SECONDS}
# Replace the process regularly, so that memory leaks of libraries do not add up.
worker_max_tasks_per_child = 50
broker_connection_retry_on_startup = True

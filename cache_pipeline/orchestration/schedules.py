"""The schedule of one report: it runs the report's job for each new partition (C5).

Anything that reacts to the state of the data is a sensor, in ``sensors``.
See https://docs.dagster.io/guides/automate/schedules
"""

from datetime import timedelta
from typing import Any

import dagster as dg

from cache_pipeline.query.report import Cadence, Report

#: A schedule has only an hour and a minute. Figures that become final later are fetched again by the stale sensor.
_MAX_DELAY = timedelta(hours=23, minutes=59)


def report_schedule(report: Report, job: dg.JobDefinition) -> Any:
    """Return the schedule that fetches the latest partition after the report's finality delay."""
    hours, minutes = divmod(int(min(report.freshness.finality_delay, _MAX_DELAY).total_seconds() // 60), 60)
    return dg.build_schedule_from_partitioned_job(
        job,
        name=f"{report.name}_schedule",
        description="Fetches the latest partition once the finality delay after its end has passed",
        minute_of_hour=minutes,
        hour_of_day=None if report.partition is Cadence.hour else hours,
    )

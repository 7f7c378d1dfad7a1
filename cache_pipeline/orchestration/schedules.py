"""The schedule of one report: it runs the report's job for each partition as soon as it can be final (C5).

Anything that reacts to the state of the data is a sensor, in ``sensors``.
See https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from cache_pipeline.orchestration.partitions import keys_ending_between, range_tags
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Cadence, Report

_MINUTE = timedelta(minutes=1)
_DAYS_OF_WEEK = (1, 2, 3, 4, 5, 6, 0)


def report_schedule(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition
) -> dg.ScheduleDefinition:
    """Return the schedule that fetches a partition when the finality delay after its end has passed.

    To fetch it sooner would bring provisional figures, and cost a second query.
    """

    @dg.schedule(
        name=f"{report.name}_schedule",
        job=job,
        cron_schedule=finality_cron(report),
        execution_timezone=report.time_zone,
        description="Fetches each partition once, when the finality delay after its end has passed",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        keys = keys_final_since_last_tick(report, partitions, context.scheduled_execution_time)
        if not keys:
            yield dg.SkipReason("no partition became final since the last tick")
        elif len(keys) == 1:
            yield dg.RunRequest(run_key=keys[0], partition_key=keys[0])
        else:
            tags = {**range_tags(keys[0], keys[-1]), LANE_TAG: str(Lane.scheduled)}
            yield dg.RunRequest(run_key=f"{keys[0]}:{keys[-1]}", tags=tags)

    return schedule


def finality_cron(report: Report) -> str:
    """Return when partitions of a report become final, in local time: their end and the delay, in whole minutes."""
    delay = -(-report.freshness.finality_delay // _MINUTE)
    minute, hour = delay % 60, delay // 60 % 24
    if report.partition is Cadence.hour:
        return f"{minute} * * * *"
    # A week begins on Monday, and cron's on Sunday.
    day = _DAYS_OF_WEEK[delay // (24 * 60) % 7] if report.partition is Cadence.week else "*"
    return f"{minute} {hour} * * {day}"


def keys_final_since_last_tick(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, at: datetime
) -> list[str]:
    """Return the partitions that have become final in one cadence before `at`.

    There is one, except where the clocks change during the finality delay: then there may be none, and two at the next tick.
    """
    delay = report.freshness.finality_delay
    at, length = at.astimezone(UTC), report.partition.step.nominal_length
    # In local time: the schedule ticks at the same time of day before and after a clock change.
    last_tick = at - length if report.partition is Cadence.hour else at.astimezone(report.zone) - length
    return keys_ending_between(partitions, last_tick.astimezone(UTC) - delay, at - delay)

"""Sensors over all reports: what failed its completeness check, what was left unpublished, what is asked for in vain.

Each reads the state, lets a pure function decide, and asks for a few runs at most; the same state asks once.
See https://docs.dagster.io/guides/automate/sensors
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from cache_pipeline.bootstrap import utc_now
from cache_pipeline.orchestration.backoff import ASKED_BY_TAG, is_due, read_past_attempts
from cache_pipeline.orchestration.cursors import AllPassedCursor
from cache_pipeline.orchestration.decisions import (
    ATTEMPT_TAG,
    PrefetchCandidate,
    RetryDecision,
    StaleRange,
    due_for_retry,
    find_unpublished_ranges,
    latest_incomplete,
    prefetch_candidates,
    prefetch_proposals,
)
from cache_pipeline.orchestration.instance_queries import completeness, is_in_progress, latest_completeness
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.partitions import Declared, keys_within, partition_intervals, range_tags
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.storage.redis.demand import Demand

INCOMPLETE_SENSOR, UNPUBLISHED_SENSOR, DEMAND_SENSOR = "incomplete_sensor", "unpublished_sensor", "demand_sensor"

_NO_TAGS: Mapping[str, str] = {}
_RUNS_A_TICK = 3
_FIRST_WAIT = timedelta(minutes=5)
_LOOK_BACK = timedelta(days=400)
Asked = Iterator[dg.RunRequest | dg.SkipReason]


def report_sensors(declared: Declared, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """The sensors that watch every report at once; ``jobs`` are those that they may ask for."""
    return [_incomplete_sensor(declared, jobs), _unpublished_sensor(declared, jobs), _demand_sensor(declared, jobs)]


def _incomplete_sensor(declared: Declared, jobs: Sequence[Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=INCOMPLETE_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        description="Asks again, in smaller chunks, for partitions whose completeness check did not pass",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Asked:
        now, asked = utc_now(), 0
        latest = latest_completeness(context.instance, [report for report, _ in declared.values()])
        passed = AllPassedCursor.read(context.cursor)
        for report, _ in passed.to_look_at(declared, latest, now):
            known = latest_incomplete(each.told for each in completeness(context.instance, report))
            if not known:
                passed.note(report.name, latest[report.name])
            for again in due_for_retry(report, known, now, wait=_FIRST_WAIT, at_most=_RUNS_A_TICK - asked):
                asked += 1
                yield _request_again(report, again)
        context.update_cursor(passed.written())
        if not asked:
            yield dg.SkipReason("no partition is due to be asked for again")

    return sensor


def _request(
    report: Report, sensor: str, span: tuple[str, str], run_key: str, tags: Mapping[str, str] = _NO_TAGS
) -> dg.RunRequest:
    asked_by = {LANE_TAG: str(Lane.scheduled), ASKED_BY_TAG: sensor}
    return dg.RunRequest(job_name=job_name(report), run_key=run_key, tags={**range_tags(*span), **asked_by, **tags})


def _request_again(report: Report, again: RetryDecision) -> dg.RunRequest:
    config = {"chunk": again.chunk, "attempt": again.attempt}
    return dg.RunRequest(
        job_name=job_name(report),
        run_key=f"{report.name}:again:{again.key}:{again.seen}:{again.attempt}",
        run_config={"ops": {f"staged__{report.name}": {"config": config}}},
        tags={
            **range_tags(again.key, again.key),
            LANE_TAG: str(Lane.scheduled),
            ASKED_BY_TAG: INCOMPLETE_SENSOR,
            ATTEMPT_TAG: str(again.attempt),
        },
    )


def _unpublished_sensor(declared: Declared, jobs: Sequence[Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=UNPUBLISHED_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        description="Publishes what a killed run had staged and not brought into history; asks the vendor nothing",
    )
    def sensor(context: dg.SensorEvaluationContext, engine: EngineResource) -> Asked:
        now, asked = utc_now(), 0
        for report, found in _unpublished(context.instance, declared, engine):
            for lying in found:
                tried = read_past_attempts(context.instance, UNPUBLISHED_SENSOR, job_name(report), lying.first)
                if asked < _RUNS_A_TICK and is_due(tried, now):
                    asked += 1
                    yield _request(
                        report,
                        UNPUBLISHED_SENSOR,
                        (lying.first, lying.last),
                        f"{report.name}:{lying.first}:{lying.last}:{lying.seen}@{now:%Y-%m-%dT%H}",
                    )
        if not asked:
            yield dg.SkipReason("everything that is staged is published, or being published")

    return sensor


def _unpublished(
    instance: dg.DagsterInstance, declared: Declared, engine: EngineResource
) -> list[tuple[Report, list[StaleRange]]]:
    staging, now = engine.staging(), utc_now()
    found: list[tuple[Report, list[StaleRange]]] = []
    with engine.history() as history:
        for report, partitions in declared.values():
            # Files of a run that goes on are about to be published by it.
            if not staging.has_any(engine.tenant_series(report)) or is_in_progress(instance, report):
                continue
            order = keys_within(partitions, Interval(now - _LOOK_BACK, now))
            lying = staging.stored_keys(engine.tenant_series(report), order)
            if lying:
                staged = partition_intervals(partitions, lying)
                coverage = history.coverage(engine.tenant_series(report))
                found.append((report, find_unpublished_ranges(coverage, staged, order, at_most=_RUNS_A_TICK)))
    return found


def _demand_sensor(declared: Declared, jobs: Sequence[Any]) -> dg.SensorDefinition:
    reports = {name: report for name, (report, _) in declared.items()}

    @dg.sensor(
        name=DEMAND_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        description="Fetches what is asked for in vain through the API, where prefetch_after_misses says so; else proposes it",
    )
    def sensor(context: dg.SensorEvaluationContext, engine: EngineResource) -> Asked:
        now = utc_now()
        demands = asyncio.run(engine.demand())
        for proposal in prefetch_proposals(reports, demands):
            context.log.info(str(proposal))
        asked = 0
        for ahead in _ahead(declared, demands, engine, now):
            report = reports[ahead.report]
            tried = read_past_attempts(context.instance, DEMAND_SENSOR, job_name(report), ahead.key)
            if asked < _RUNS_A_TICK and is_due(tried, now):
                asked += 1
                run_key = f"{ahead.report}:ahead:{ahead.key}:{now:%Y-%m-%dT%H}"
                missed = {"cache_pipeline/asked_for": str(ahead.missed)}
                yield _request(report, DEMAND_SENSOR, (ahead.key, ahead.key), run_key, missed)
        if not asked:
            told = "; ".join(str(proposal) for proposal in prefetch_proposals(reports, demands))
            yield dg.SkipReason(told or "nothing is asked for in vain often enough")

    return sensor


def _ahead(
    declared: Declared, demands: Sequence[Demand], engine: EngineResource, now: datetime
) -> list[PrefetchCandidate]:
    wanted = {demand.report for demand in demands if demand.misses}
    asked_for = [
        each
        for name, each in declared.items()
        if name in wanted and each[0].freshness.prefetch_after_misses is not None
    ]
    if not asked_for:
        return []
    found: list[PrefetchCandidate] = []
    with engine.history() as history:
        for report, partitions in asked_for:
            recent = partition_intervals(partitions, keys_within(partitions, Interval(now - _LOOK_BACK, now)))
            coverage = history.coverage(engine.tenant_series(report))
            found += prefetch_candidates(report, demands, recent, coverage, at_most=_RUNS_A_TICK)
    return sorted(found, key=lambda each: -each.missed)

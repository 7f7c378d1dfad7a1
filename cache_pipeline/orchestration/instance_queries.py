"""What Dagster's storage says of a report: its runs, its completeness checks, and why partitions failed."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from cache_pipeline.orchestration.backoff import UNFINISHED
from cache_pipeline.orchestration.decisions import ATTEMPT_METADATA
from cache_pipeline.orchestration.naming import COMPLETE_CHECK, FAILED_METADATA, asset_key, job_name
from cache_pipeline.orchestration.open_partitions import PartitionProblem
from cache_pipeline.orchestration.partitions import keys_of_run
from cache_pipeline.query.report import Report

_CHECKS_LOOKED_AT = 500
_RUNS_LOOKED_AT = 50
#: Where the UI materialises assets by themselves, and backfills them, the job is Dagster's own.
_ASSETS_JOB = "__ASSET_JOB"


@dataclass(frozen=True)
class CheckEvaluation:
    """One partition's evaluation of the completeness check.

    Attributes:
        told: partition, time, whether it passed, and which attempt of asking again it belongs to (0 for none).
        reason: what was wrong.
    """

    told: tuple[str, datetime, bool, int]
    reason: str


def completeness(instance: dg.DagsterInstance, report: Report) -> Iterator[CheckEvaluation]:
    """The latest evaluations of single partitions, newest first."""
    check = dg.AssetCheckKey(asset_key("staged", report), COMPLETE_CHECK)
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=_CHECKS_LOOKED_AT)
    for record in history:
        evaluation = record.event.asset_check_evaluation if record.event else None
        if record.event and evaluation and evaluation.partition:
            attempt = evaluation.metadata.get(ATTEMPT_METADATA)
            at = datetime.fromtimestamp(record.event.timestamp, UTC)
            number = int(str(attempt.value)) if attempt else 0
            yield CheckEvaluation((evaluation.partition, at, evaluation.passed, number), evaluation.description or "")


def latest_completeness(instance: dg.DagsterInstance, reports: Iterable[Report]) -> dict[str, str]:
    """What tells the latest execution of each report's completeness check from the one before, in one query for all.

    Reports of which it was never executed are left out.
    """
    checks = {dg.AssetCheckKey(asset_key("staged", report), COMPLETE_CHECK): report.name for report in reports}
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
    return {checks[key]: f"{record.id}:{record.status.value}" for key, record in latest.items()}


def runs_of(
    instance: dg.DagsterInstance, report: Report, statuses: Collection[dg.DagsterRunStatus]
) -> list[dg.DagsterRun]:
    """The report's latest runs of some statuses, newest first, by its job or by its assets."""
    key = asset_key("staged", report)
    found: dict[str, tuple[datetime, dg.DagsterRun]] = {}
    for name in (job_name(report), _ASSETS_JOB):
        filters = dg.RunsFilter(job_name=name, statuses=list(statuses))
        for record in instance.get_run_records(filters, limit=_RUNS_LOOKED_AT):
            run = record.dagster_run
            if name != _ASSETS_JOB or key in (run.asset_selection or ()):
                found[run.run_id] = (record.create_timestamp, run)
    return [run for _, run in sorted(found.values(), key=lambda each: each[0], reverse=True)]


def is_in_progress(instance: dg.DagsterInstance, report: Report) -> bool:
    """Whether a run of the report has not ended."""
    return bool(runs_of(instance, report, UNFINISHED))


def failed_partitions(
    instance: dg.DagsterInstance,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    order: Collection[str],
) -> dict[str, PartitionProblem]:
    """The partitions whose last run failed, with the reason it told and how many of the latest runs failed on them."""
    status = instance.get_status_by_partition(asset_key("staged", report), list(order), partitions) or {}
    failed = {key for key, each in status.items() if each is not None and each.value == "FAILED"}
    if not failed:
        return {}
    found: dict[str, PartitionProblem] = {}
    for run in runs_of(instance, report, (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)):
        for key, reason in _reasons(instance, partitions, run).items():
            if key in failed:
                before = found.get(key, PartitionProblem(reason, 0))
                found[key] = PartitionProblem(before.reason, before.attempts + 1)
    return {**{key: PartitionProblem("its run ended without it", 1) for key in failed}, **found}


def _reasons(
    instance: dg.DagsterInstance, partitions: dg.TimeWindowPartitionsDefinition, run: dg.DagsterRun
) -> dict[str, str]:
    """What a run said of the partitions it failed on; where it said nothing of any, all it covered, with its own end."""
    events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    causes = [
        entry.dagster_event.step_failure_data
        for entry in (record.event_log_entry for record in events)
        if entry.dagster_event
    ]
    told: dict[str, str] = {}
    for cause in causes:
        metadata = cause.user_failure_data.metadata if cause.user_failure_data else {}
        table = metadata.get(FAILED_METADATA)
        if isinstance(table, dg.TableMetadataValue):
            told |= {str(row.data["partition"]): str(row.data["error"]) for row in table.records}
    if told:
        return told
    described = [cause.user_failure_data.description for cause in causes if cause.user_failure_data]
    reason = next((each for each in described if each), f"its run ended as {run.status.value}")
    try:
        return dict.fromkeys(keys_of_run(partitions, run.tags), reason)
    except (dg.Failure, dg.DagsterError, ValueError):
        # It covered none, or partitions of another cadence than the report has now.
        return {}

"""Queries of Dagster's storage: a report's runs, its completeness checks, and why its partitions failed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain

import dagster as dg

from cache_pipeline.orchestration.backoff import UNFINISHED_STATUSES, PartitionRun
from cache_pipeline.orchestration.decisions import CompletenessEvaluation
from cache_pipeline.orchestration.naming import (
    COMPLETENESS_CHECK,
    FAILED_PARTITIONS_METADATA,
    RETRY_ATTEMPT_METADATA,
    asset_key,
    job_name,
)
from cache_pipeline.orchestration.open_partitions import PartitionProblem
from cache_pipeline.orchestration.partitions import interval_of_run, keys_of_run
from cache_pipeline.orchestration.run_tags import LAUNCHED_BY_TAG
from cache_pipeline.query.report import Report

_MAX_EVALUATIONS = 500
_MAX_RUNS = 100
_FAILED_STATUSES = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
#: Reading these takes half a second. Where more runs have failed, some partitions are tried once an hour instead.
_MAX_FAILED_RUNS = 1000
#: The job of runs that the UI launches from assets, or as a backfill, is Dagster's own.
_ASSETS_JOB = "__ASSET_JOB"


def completeness_evaluations(instance: dg.DagsterInstance, report: Report) -> Iterator[CompletenessEvaluation]:
    """Yield the latest evaluations of single partitions, newest first, without warnings while parts are being fetched."""
    check = dg.AssetCheckKey(asset_key("staged", report), COMPLETENESS_CHECK)
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=_MAX_EVALUATIONS)
    for record in history:
        evaluation = record.event.asset_check_evaluation if record.event else None
        if record.event and evaluation and evaluation.partition and not _is_warning(evaluation):
            attempt = evaluation.metadata.get(RETRY_ATTEMPT_METADATA)
            yield CompletenessEvaluation(
                evaluation.partition,
                datetime.fromtimestamp(record.event.timestamp, UTC),
                evaluation.passed,
                int(str(attempt.value)) if attempt else 0,
                evaluation.description or "",
            )


def _is_warning(evaluation: dg.AssetCheckEvaluation) -> bool:
    return not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.WARN


def latest_completeness_ids(instance: dg.DagsterInstance, reports: Iterable[Report]) -> dict[str, str]:
    """Return an id of each report's latest completeness check, which changes with each execution; in a single query.

    Reports whose check was never executed are left out.
    """
    checks = {dg.AssetCheckKey(asset_key("staged", report), COMPLETENESS_CHECK): report.name for report in reports}
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
    return {checks[key]: f"{record.id}:{record.status.value}" for key, record in latest.items()}


class RecentRuns:
    """Runs of all reports that have not finished, or that failed lately; of a report's job or of its assets."""

    def __init__(self, records: Iterable[dg.RunRecord]) -> None:
        self._by_owner: dict[str | dg.AssetKey, list[dg.RunRecord]] = defaultdict(list)
        for record in records:
            run = record.dagster_run
            for owner in (run.asset_selection or ()) if run.job_name == _ASSETS_JOB else (run.job_name,):
                self._by_owner[owner].append(record)

    def of_partitions(self, report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> list[PartitionRun]:
        """Return the runs of a report that cover partitions, with these."""
        return [
            PartitionRun(
                interval,
                record.dagster_run.status in UNFINISHED_STATUSES,
                record.update_timestamp.replace(tzinfo=UTC),
                record.dagster_run.tags.get(LAUNCHED_BY_TAG, ""),
            )
            for record in self._of(report)
            if (interval := interval_of_run(partitions, record.dagster_run.tags)) is not None
        ]

    def has_unfinished(self, report: Report) -> bool:
        """Return whether a run of the report has not finished."""
        return any(record.dagster_run.status in UNFINISHED_STATUSES for record in self._of(report))

    def has_failed(self, report: Report) -> bool:
        """Return whether a run of the report has failed lately."""
        return any(record.dagster_run.status in _FAILED_STATUSES for record in self._of(report))

    def _of(self, report: Report) -> Iterable[dg.RunRecord]:
        return chain.from_iterable(self._by_owner.get(owner, ()) for owner in _owners(report))


def read_recent_runs(instance: dg.DagsterInstance, failed_after: datetime) -> RecentRuns:
    """Read the runs of all reports in two queries: the unfinished ones, and those that failed after an instant."""
    unfinished = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED_STATUSES)))
    failed = dg.RunsFilter(statuses=list(_FAILED_STATUSES), updated_after=failed_after)
    return RecentRuns([*unfinished, *instance.get_run_records(failed, limit=_MAX_FAILED_RUNS)])


def _owners(report: Report) -> tuple[str, dg.AssetKey]:
    return job_name(report), asset_key("staged", report)


def _find_failed_runs(instance: dg.DagsterInstance, report: Report) -> list[dg.DagsterRun]:
    """Find the report's latest failed runs, newest first, whether of its job or of its assets."""
    job, staged = _owners(report)
    found: dict[str, dg.RunRecord] = {}
    for name in (job, _ASSETS_JOB):
        filters = dg.RunsFilter(job_name=name, statuses=list(_FAILED_STATUSES))
        for record in instance.get_run_records(filters, limit=_MAX_RUNS):
            run = record.dagster_run
            if name != _ASSETS_JOB or staged in (run.asset_selection or ()):
                found[run.run_id] = record
    return [each.dagster_run for each in sorted(found.values(), key=lambda each: each.create_timestamp, reverse=True)]


def find_failed_partitions(
    instance: dg.DagsterInstance,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    keys: Collection[str],
) -> dict[str, PartitionProblem]:
    """Find the partitions whose last run failed, with the latest reason and the number of recent runs that failed."""
    status = instance.get_status_by_partition(asset_key("staged", report), list(keys), partitions) or {}
    failed = {key for key, each in status.items() if each is not None and each.value == "FAILED"}
    if not failed:
        return {}
    found: dict[str, PartitionProblem] = {}
    for run in _find_failed_runs(instance, report):
        for key, reason in _failure_reasons(instance, partitions, run).items():
            if key in failed:
                # Runs come newest first, so the first reason is the latest.
                previous = found.get(key, PartitionProblem(reason, 0))
                found[key] = PartitionProblem(previous.reason, previous.attempts + 1)
    return {**{key: PartitionProblem("its run ended without it", 1) for key in failed}, **found}


def _failure_reasons(
    instance: dg.DagsterInstance, partitions: dg.TimeWindowPartitionsDefinition, run: dg.DagsterRun
) -> dict[str, str]:
    """Return the error of each partition that a run reported as failed.

    If it reported none, all its partitions failed with the error of the run.
    """
    events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    causes = [
        entry.dagster_event.step_failure_data
        for entry in (record.event_log_entry for record in events)
        if entry.dagster_event
    ]
    reported: dict[str, str] = {}
    for cause in causes:
        metadata = cause.user_failure_data.metadata if cause.user_failure_data else {}
        table = metadata.get(FAILED_PARTITIONS_METADATA)
        if isinstance(table, dg.TableMetadataValue):
            reported |= {str(row.data["partition"]): str(row.data["error"]) for row in table.records}
    if reported:
        return reported
    descriptions = [cause.user_failure_data.description for cause in causes if cause.user_failure_data]
    reason = next((each for each in descriptions if each), f"its run ended with status {run.status.value}")
    try:
        return dict.fromkeys(keys_of_run(partitions, run.tags), reason)
    except (dg.Failure, dg.DagsterError, ValueError):
        # The run covered no partition, or partitions of another cadence than the report has now.
        return {}

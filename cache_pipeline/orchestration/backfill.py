"""Backfill of one report as a Dagster run in this process; prints its progress as lines of JSON.

The Dagster instance is that of DAGSTER_HOME, so the run appears in the UI like any other. Run it as
``python -m cache_pipeline.orchestration.backfill REPORT FIRST_DAY END_DAY [--exclusive] [--refetch]``.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from datetime import date

import dagster as dg

from cache_pipeline.bootstrap.reports import configured_days, load_reports
from cache_pipeline.errors import QueryError
from cache_pipeline.orchestration.backfill_outcome import BackfillOutcome, CheckOutcome
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.dagster_compat import initialize_pool, reuse_connections, write_events_in_batches
from cache_pipeline.orchestration.naming import job_name, pool_name, staged_op_name
from cache_pipeline.orchestration.partitions import keys_within, range_tags, report_partitions
from cache_pipeline.orchestration.progress import progress_logger
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import read_settings


class _ProgressHandler(logging.Handler):
    def __init__(self, report_progress: Callable[[dict[str, object]], None]) -> None:
        super().__init__()
        self._report_progress = report_progress

    def emit(self, record: logging.LogRecord) -> None:
        self._report_progress({"done": record.__dict__["done"], "total": record.__dict__["total"]})


def run_backfill(
    name: str,
    first_day: date,
    end_day: date,
    report_progress: Callable[[dict[str, object]], None],
    *,
    exclusive: bool = False,
    refetch: bool = False,
) -> BackfillOutcome:
    """Materialise all assets of a report for ``[first_day, end_day)`` in its time zone, in one run.

    Args:
        name: The report's name.
        first_day: First local day.
        end_day: Local day after the last.
        report_progress: Receives ``{"done": partitions, "total": partitions}``.
        exclusive: No other process runs this report, so a run that still has the status "started" was killed; mark it
            as failed first.
        refetch: Fetch everything from the vendor, even what history has; for figures that the vendor has corrected.

    Raises:
        UnknownReport: No report has this name.
        DeclarationError: A declaration is invalid.
        SettingsError: A setting is invalid.
        QueryError: No partition of these days has ended.
    """
    settings = read_settings()
    reports = load_reports(settings)
    report = find_report(reports, name)
    partitions = report_partitions(report, configured_days(settings))
    span = Interval(midnight(first_day, report.zone), midnight(end_day, report.zone))
    keys = keys_within(partitions, span)
    if not keys:
        raise QueryError(
            f"{name} has no partition that has ended in {first_day}/{end_day}; its first is "
            f"{partitions.get_first_partition_key()}, its last {partitions.get_last_partition_key()}"
        )
    handler = _ProgressHandler(report_progress)
    progress_logger.addHandler(handler)
    progress_logger.setLevel(logging.INFO)
    progress_logger.propagate = False
    try:
        with dg.DagsterInstance.get() as instance:
            reuse_connections(instance)
            initialize_pool(instance, pool_name(report))
            if exclusive:
                _fail_killed_runs(instance, job_name(report))
            job = build_defs(reports={name: report}).resolve_job_def(job_name(report))
            result = job.execute_in_process(
                instance=instance,
                run_config={"ops": {staged_op_name(report): {"config": {"refetch": refetch}}}},
                tags={**range_tags(keys[0], keys[-1]), LANE_TAG: "backfill"},
                raise_on_error=False,
            )
            return BackfillOutcome(
                report=name,
                run_id=result.run_id,
                success=result.success,
                partitions=len(keys),
                error=_first_error(result),
                checks=_check_outcomes(instance, job.asset_layer.asset_graph.asset_check_keys),
            )
    finally:
        progress_logger.removeHandler(handler)


def _fail_killed_runs(instance: dg.DagsterInstance, job: str) -> None:
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=unfinished)):
        instance.report_run_failed(run, "its process was killed")


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            failure = event.step_failure_data.user_failure_data
            error = event.step_failure_data.error
            return (failure.description if failure else None) or error.message.strip()
    return ""


def _check_outcomes(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> list[CheckOutcome]:
    outcomes: list[CheckOutcome] = []
    for key in sorted(keys):
        history = instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
        evaluations = [record.event.asset_check_evaluation for record in history if record.event]
        latest: dict[str | None, bool] = {}
        for evaluation in evaluations:
            if evaluation is not None:
                latest.setdefault(evaluation.partition, not _fails(evaluation))
        outcomes.append(
            CheckOutcome(
                check=f"{key.asset_key.to_user_string()}:{key.name}",
                passed=bool(latest) and all(latest.values()),
                failed_before=sum(evaluation is not None and _fails(evaluation) for evaluation in evaluations),
            )
        )
    return outcomes


def _fails(evaluation: dg.AssetCheckEvaluation) -> bool:
    # A warning asks a person to look; the figures are still usable.
    return not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR


def _print_message(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main(arguments: list[str]) -> int:
    """Run ``REPORT FIRST_DAY END_DAY [--exclusive] [--refetch]``; the last line printed is the outcome."""
    write_events_in_batches(os.environ)
    name, first_day, end_day, *flags = arguments
    days = date.fromisoformat(first_day), date.fromisoformat(end_day)
    outcome = run_backfill(name, *days, _print_message, exclusive="--exclusive" in flags, refetch="--refetch" in flags)
    _print_message({"outcome": outcome})
    return 0 if outcome["success"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One range backfill of one report in this process, through Dagster, telling its progress line by line as JSON.

The instance is that of DAGSTER_HOME, so that the run is seen in the Dagster UI like any other.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from datetime import date

import dagster as dg

from cache_pipeline.bootstrap import load_reports
from cache_pipeline.errors import QueryError
from cache_pipeline.orchestration.assets import progress
from cache_pipeline.orchestration.backfill_outcome import BackfillOutcome, CheckOutcome
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.dagster_compat import keep_connections, write_events_in_batches
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.partitions import keys_within, range_tags, report_partitions
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import read_settings


class _Progress(logging.Handler):
    def __init__(self, say: Callable[[dict[str, object]], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say({"done": record.__dict__["done"], "total": record.__dict__["total"]})


def run_backfill(
    name: str,
    first_day: date,
    end_day: date,
    say: Callable[[dict[str, object]], None],
    *,
    alone: bool = False,
    again: bool = False,
) -> BackfillOutcome:
    """Materialise all assets of a report for ``[first_day, end_day)`` of its zone, in one run.

    Args:
        name: the report.
        first_day: first local day.
        end_day: the local day after the last.
        say: hears of progress, as ``{"done": partitions, "total": partitions}``.
        alone: nobody else runs this report, so a run that still counts as started was killed and is failed first.
        again: ask the vendor for everything, whatever is held; for restated figures.

    Raises:
        UnknownReport, DeclarationError, SettingsError, QueryError: naming what to mend; the last where no partition
            of those days exists.
    """
    settings = read_settings()
    reports = load_reports(settings)
    report = find_report(reports, name)
    partitions = report_partitions(report, settings.partitions_from, settings.partitions_to)
    span = Interval(midnight(first_day, report.zone), midnight(end_day, report.zone))
    keys = keys_within(partitions, span)
    if not keys:
        raise QueryError(
            f"{name} has no partition that has ended in {first_day}/{end_day}: its first is "
            f"{partitions.get_first_partition_key()}, its last {partitions.get_last_partition_key()}"
        )
    handler = _Progress(say)
    progress.addHandler(handler)
    progress.setLevel(logging.INFO)
    progress.propagate = False
    try:
        with dg.DagsterInstance.get() as instance:
            keep_connections(instance)
            if alone:
                _fail_dead_runs(instance, job_name(report))
            job = build_defs(reports={name: report}).resolve_job_def(job_name(report))
            result = job.execute_in_process(
                instance=instance,
                run_config={"ops": {f"staged__{name}": {"config": {"again": again}}}},
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
        progress.removeHandler(handler)


def _fail_dead_runs(instance: dg.DagsterInstance, job: str) -> None:
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=unfinished)):
        instance.report_run_failed(run, "its process was killed")


def _first_error(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.user_failure_data
            cause = event.step_failure_data.error
            return (error.description if error else None) or cause.message.strip()
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
    # One that warns is for a person to look at, and leaves the figures as good as they are.
    return not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main(arguments: list[str]) -> int:
    """``REPORT FIRST_DAY END_DAY [--alone] [--again]``; the last line printed is the outcome."""
    write_events_in_batches(os.environ)
    name, first_day, end_day, *flags = arguments
    days = date.fromisoformat(first_day), date.fromisoformat(end_day)
    outcome = run_backfill(name, *days, _say, alone="--alone" in flags, again="--again" in flags)
    _say({"outcome": outcome})
    return 0 if outcome["success"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

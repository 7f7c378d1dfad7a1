"""Checks after the faults: compare history, coverage, published files and the vendor's counters with the vendor's data."""

import asyncio
import re
from typing import Any

import httpx
import psycopg

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.load import ApiCallers, ReportRequest, days_around, run_backfill
from cache_pipeline_tests.chaos.outcome import Outcome
from cache_pipeline_tests.chaos.reader import read_edge, read_history
from cache_pipeline_tests.chaos.scenario import RECHECK_SECONDS, REPORTS, ChaosReport
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.truth import Figures

_JOB_TIMEOUT_SECONDS = 120
_BACKFILL_ATTEMPTS = 6
_PROBLEM_PREFIX = "urn:cache-pipeline:problem:"
#: One query stored twice although its answer was final the first time, with what the vendor answered.
# Beside it, how often it was due once more: an answer far below what history expects is asked for again after a delay. What is
# known of the first answer is lost if its process is killed just then, so the second may be the only one of them.
_STORED_TWICE = f"""
    SELECT q.report, q.interval::text, lower(q.interval), upper(q.interval), q.times, seen.due, seen.results
    FROM (
        SELECT report, interval, count(*) AS times, min(requested_at) AS first, max(requested_at) AS last
        FROM cache_pipeline_state.upstream_query
        WHERE state = 'stored' AND upper(interval) < requested_at - interval '10 minutes'
        GROUP BY report, interval HAVING count(*) > 1
    ) AS q CROSS JOIN LATERAL (
        SELECT greatest(
                count(*) FILTER (WHERE is_due AND fetched_at < q.last), coalesce(bool_or(is_due), false)::int
            ) AS due,
            string_agg(format('%s: %s, %s of %s rows', to_char(fetched_at, 'HH24:MI:SS'), verdict, final_rows, expected_rows),
                '; ' ORDER BY fetched_at) AS results
        FROM (
            SELECT *, q.last - q.first >= interval '{RECHECK_SECONDS} seconds'
                AND (verdict = 'unverified' OR final_rows < 0.8 * expected_rows) AS is_due
            FROM cache_pipeline_state.chunk_result
            WHERE interval = q.interval AND series IN (
                SELECT series FROM cache_pipeline_state.coverage WHERE report = q.report
            )
        ) AS result
    ) AS seen
"""
_VERDICTS = "SELECT verdict, count(*) FROM cache_pipeline_state.chunk_result GROUP BY 1"
_HANDLES = "SELECT count(handle) FROM cache_pipeline_state.upstream_query"


async def settle(system: System, callers: ApiCallers, outcome: Outcome) -> None:
    """Wait for every accepted job, repeat failed requests, and backfill every day once more."""
    await _check_jobs(system, callers, outcome)
    _check_coverage_of_done_jobs(system, callers, outcome)
    await asyncio.gather(*(_backfill_with_retries(system, report, outcome) for report in REPORTS))


async def refetch_restated(system: System, outcome: Outcome) -> None:
    """Refetch what the vendor restated, as the refetch sensors do once a day."""
    if system.truth.restated:
        await asyncio.gather(*(_backfill_with_retries(system, report, outcome, refetch=True) for report in REPORTS))


async def _backfill_with_retries(
    system: System, report: ChaosReport, outcome: Outcome, *, refetch: bool = False
) -> None:
    first, end = days_around(report, system.truth.restated) if refetch else (report.days()[0], report.today())
    for _ in range(_BACKFILL_ATTEMPTS):
        failed = await run_backfill(system, report, first, end, refetch=refetch)
        if not failed and (refetch or _is_complete(system, report)):
            return
        # Answers that need a second look are refetched once the declared delay is over.
        await asyncio.sleep(RECHECK_SECONDS)
    if refetch or not _is_complete(system, report):
        outcome.record("lost", f"{report.name} cannot be backfilled; see {system.folder}/dagster.log")


def _is_complete(system: System, report: ChaosReport) -> bool:
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        _, complete, _ = read_history(connection, report, Outcome())
    return complete.covers(_full_interval(report))


async def _check_jobs(system: System, callers: ApiCallers, outcome: Outcome) -> None:
    failed: list[ReportRequest] = []
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30) as http:
        for job, request in callers.acknowledged.items():
            try:
                async with asyncio.timeout(_JOB_TIMEOUT_SECONDS):
                    state, problem = await _wait_for_end(http, job)
            except TimeoutError:
                state, problem = "still open", {}
                system.dump_stacks()
            outcome.counts[f"jobs {state}"] += 1
            if state == "failed":
                failed.append(request)
                _record_failure(job, problem, outcome)
            elif state != "done":
                outcome.record("lost", f"job {job} for {request.report.name} {request.interval} is {state}")
        for request in failed:
            outcome.counts["requests repeated after their job failed"] += 1
            if not await callers.poll_and_check(http, request):
                outcome.record("lost", f"{request.report.name} {request.interval} failed and has no answer afterwards")


def _record_failure(job: str, problem: dict[str, str], outcome: Outcome) -> None:
    kind = problem.get("type", "").removeprefix(_PROBLEM_PREFIX)
    if not problem.get("type", "").startswith(_PROBLEM_PREFIX) or not problem.get("detail") or kind in ("", "internal"):
        outcome.record("lost", f"job {job} failed without a reason: {problem}")
    detail = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", problem.get("detail", ""))
    outcome.failures[f"{kind}: {detail}"] += 1


async def _wait_for_end(http: httpx.AsyncClient, job: str) -> tuple[str, dict[str, str]]:
    while True:
        response = await http.get(f"/v1/jobs/{job}")
        if response.status_code == 404:
            return "unknown", {}
        body = response.json()
        if body.get("state") not in ("queued", "running", None):
            return body["state"], body.get("problem") or {}
        await asyncio.sleep(0.3)


def _check_coverage_of_done_jobs(system: System, callers: ApiCallers, outcome: Outcome) -> None:
    """Check that history covers what each finished job was asked for."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        rows = connection.execute("SELECT id FROM cache_pipeline_state.job WHERE state = 'done'").fetchall()
        done = {str(row[0]) for row in rows}
        for report in REPORTS:
            _, complete, provisional = read_history(connection, report, outcome)
            for job, request in callers.acknowledged.items():
                if request.report is report and job in done and _ended_days(request) - (complete | provisional):
                    outcome.record("lost", f"job {job} is done, but history lacks {report.name} {request.interval}")


def _ended_days(request: ReportRequest) -> IntervalSet:
    """Return the part of a request's interval whose days have ended."""
    requested = Interval.parse(request.interval)
    end = min(requested.end, request.report.midnight(request.report.today()))
    return IntervalSet([Interval(requested.start, end)] if requested.start < end else [])


def check_final_state(system: System, outcome: Outcome) -> None:
    """Compare everything stored with the vendor's data, row by row. A restated bucket may equal any version."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        for report in REPORTS:
            stored, complete, _ = read_history(connection, report, outcome)
            interval = _full_interval(report)
            if not complete.covers(interval):
                outcome.record("lost", f"coverage of {report.name} lacks {IntervalSet([interval]) - complete}")
            _compare_with_truth(system, f"history of {report.name}", report, stored, outcome)
            published = read_edge(system.edge_url, report, outcome)
            _compare_with_truth(system, f"edge of {report.name}", report, published[0] if published else {}, outcome)
        for name, interval, start, end, times, due, results in connection.execute(_STORED_TWICE.encode()).fetchall():
            if times > 1 + due and not any(
                name == report and IntervalSet([refetched]) & IntervalSet([Interval(start, end)])
                for report, refetched in system.refetched
            ):
                outcome.record("duplicated", f"{name} {interval} was fetched and stored {times} times ({results})")
        for verdict, times in connection.execute(_VERDICTS).fetchall():
            outcome.counts[f"vendor answers with the verdict {verdict}"] = times
        ((handles,),) = connection.execute(_HANDLES).fetchall()
    _record_vendor_counters(system, handles, outcome)


def check_latest_versions(system: System, outcome: Outcome) -> None:
    """Check that only the latest version is stored, once everything restated has been refetched."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        for report in REPORTS:
            latest, interval = [system.truth.latest(report)], IntervalSet([_full_interval(report)])
            stored, _, _ = read_history(connection, report, outcome)
            outcome.compare(f"history of {report.name} after restatements", stored, latest, interval)
            published = read_edge(system.edge_url, report, outcome)
            outcome.compare(
                f"edge of {report.name} after restatements", published[0] if published else {}, latest, interval
            )
    _check_quota(system, outcome)


def _record_vendor_counters(system: System, handles: int, outcome: Outcome) -> None:
    summary = _read_counters(system)["summary"]
    outcome.counts["requests to the vendor"] = summary["requests"]
    outcome.counts["requests refused with 429 (injected, unless over quota)"] = summary["rejected_429"]
    outcome.counts["queries accepted by the vendor"] = summary["submits"]
    outcome.counts["queries submitted again because the first acceptance was lost"] = summary["submits"] - handles


def _check_quota(system: System, outcome: Outcome) -> None:
    for client, times in _read_counters(system)["over_limit"].items():
        for number in range(times):
            outcome.record("over quota", f"request {number + 1} of {client} above the vendor's limit")


def record_peak_window_share(system: System, outcome: Outcome) -> None:
    """Record how close the load came to the vendor's limit."""
    outcome.peak_window_share = max(_read_counters(system)["peak_window_share"].values(), default=0.0)


def _read_counters(system: System) -> dict[str, dict[str, Any]]:
    return httpx.get(f"{system.vendor_url}/simulator/counters", timeout=20).json()


def _full_interval(report: ChaosReport) -> Interval:
    return Interval(report.midnight(report.days()[0]), report.midnight(report.today()))


def _compare_with_truth(system: System, source: str, report: ChaosReport, stored: Figures, outcome: Outcome) -> None:
    versions, interval = system.truth.versions(report), _full_interval(report)
    found = {start for start, _ in stored}
    expected = {start: groups for start, groups in versions[-1].items() if interval.start <= start < interval.end}
    missing = sorted(expected.keys() - found)
    if missing:
        outcome.record("lost", f"{source} lacks {len(missing)} buckets, the first at {missing[0]}")
    outcome.compare(source, stored, versions, IntervalSet([interval]))
    outcome.counts[f"figures compared: {source}"] = sum(map(len, expected.values()))

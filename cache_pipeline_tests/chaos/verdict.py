"""What must be true when all has settled: history, coverage, edge and the vendor's own counters held against the truth."""

import asyncio
import re
from typing import Any

import httpx
import psycopg

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.accounts import Books
from cache_pipeline_tests.chaos.load import Callers, Question, around, backfill
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.truth import Figures
from cache_pipeline_tests.chaos.vendor import RECHECK_SECONDS, REPORTS, Declared
from cache_pipeline_tests.chaos.witness import edge_of, history_of

_PATIENCE_SECONDS = 120
_ATTEMPTS = 6
_TYPES = "urn:cache-pipeline:problem:"
#: The same question asked and kept twice, though its answer was final the first time.
_KEPT_TWICE = """
    SELECT report, interval::text, lower(interval), upper(interval), count(*) FROM cache_pipeline_state.upstream_query
    WHERE state = 'stored' AND upper(interval) < requested_at - interval '10 minutes' GROUP BY 1, 2, 3, 4 HAVING count(*) > 1
"""
_VERDICTS = "SELECT verdict, count(*) FROM cache_pipeline_state.chunk_result GROUP BY 1"
_HANDLES = "SELECT count(handle) FROM cache_pipeline_state.upstream_query"


async def settle(system: System, callers: Callers, books: Books) -> None:
    """Wait until every promise is kept, ask again what failed, and backfill every day once more."""
    await _jobs(system, callers, books)
    _held(system, callers, books)
    await asyncio.gather(*(_backfilled(system, report, books) for report in REPORTS))


async def ask_again(system: System, books: Books) -> None:
    """Ask the vendor again for whatever it restated, as the restatement sensors do once a day."""
    if system.truths.restated:
        await asyncio.gather(*(_backfilled(system, report, books, again=True) for report in REPORTS))


async def _backfilled(system: System, report: Declared, books: Books, *, again: bool = False) -> None:
    first, end = around(report, system.truths.restated) if again else (report.days()[0], report.today())
    for _ in range(_ATTEMPTS):
        if not await backfill(system, report, first, end, again=again) and (again or _is_complete(system, report)):
            return
        # Answers that need a second look are fetched again when the declared delay is over.
        await asyncio.sleep(RECHECK_SECONDS)
    if again or not _is_complete(system, report):
        books.note("lost", f"{report.name} cannot be backfilled: {system.folder}/dagster.log says why")


def _is_complete(system: System, report: Declared) -> bool:
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        _, complete, _ = history_of(connection, report, Books())
    return complete.covers(_span(report))


async def _jobs(system: System, callers: Callers, books: Books) -> None:
    failed: list[Question] = []
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30) as http:
        for job, question in callers.acknowledged.items():
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    state, problem = await _ended(http, job)
            except TimeoutError:
                state, problem = "still open", {}
                system.tell()
            books.counts[f"jobs {state}"] += 1
            if state == "failed":
                failed.append(question)
                _note_reason(job, problem, books)
            elif state != "done":
                books.note("lost", f"job {job} about {question.report.name} {question.interval} is {state}")
        for question in failed:
            books.counts["questions asked again because their job had failed"] += 1
            if not await callers.answered(http, question):
                books.note("lost", f"{question.report.name} {question.interval} failed, and is not answered afterwards")


def _note_reason(job: str, problem: dict[str, str], books: Books) -> None:
    kind = problem.get("type", "").removeprefix(_TYPES)
    if not problem.get("type", "").startswith(_TYPES) or not problem.get("detail") or kind in ("", "internal"):
        books.note("lost", f"job {job} failed without a reason: {problem}")
    told = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", problem.get("detail", ""))
    books.failed[f"{kind}: {told}"] += 1


async def _ended(http: httpx.AsyncClient, job: str) -> tuple[str, dict[str, str]]:
    while True:
        answer = await http.get(f"/v1/jobs/{job}")
        if answer.status_code == 404:
            return "unknown", {}
        told = answer.json()
        if told.get("state") not in ("queued", "running", None):
            return told["state"], told.get("problem") or {}
        await asyncio.sleep(0.3)


def _held(system: System, callers: Callers, books: Books) -> None:
    """What a job that is done was about is in history."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        rows = connection.execute("SELECT id FROM cache_pipeline_state.job WHERE state = 'done'").fetchall()
        done = {str(row[0]) for row in rows}
        for report in REPORTS:
            _, complete, provisional = history_of(connection, report, books)
            for job, question in callers.acknowledged.items():
                if question.report is report and job in done and _past(question) - (complete | provisional):
                    books.note("lost", f"job {job} is done, and history lacks {report.name} {question.interval}")


def _past(question: Question) -> IntervalSet:
    """The days of a question that have ended."""
    asked = Interval.parse(question.interval)
    end = min(asked.end, question.report.midnight(question.report.today()))
    return IntervalSet([Interval(asked.start, end)] if asked.start < end else [])


def judge(system: System, books: Books) -> None:
    """Compare all that is kept with the truth, to the row; what was restated may be as it was at any time."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        for report in REPORTS:
            held, complete, _ = history_of(connection, report, books)
            span = _span(report)
            if not complete.covers(span):
                books.note("lost", f"coverage of {report.name} lacks {IntervalSet([span]) - complete}")
            _whole(system, f"history of {report.name}", report, held, books)
            published = edge_of(system.edge_url, report, books)
            _whole(system, f"edge of {report.name}", report, published[0] if published else {}, books)
        for name, asked, start, end, times in connection.execute(_KEPT_TWICE).fetchall():
            if not any(
                name == report and IntervalSet([again]) & IntervalSet([Interval(start, end)])
                for report, again in system.asked_again
            ):
                books.note("doubled", f"{name} {asked} was asked for and kept {times} times")
        for verdict, times in connection.execute(_VERDICTS).fetchall():
            books.counts[f"answers of the vendor that were judged {verdict}"] = times
        ((handles,),) = connection.execute(_HANDLES).fetchall()
    _quota(system, handles, books)


def judge_newest(system: System, books: Books) -> None:
    """When all that was restated has been asked for again: nothing but the newest version is left."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        for report in REPORTS:
            newest, span = [system.truths.newest(report)], IntervalSet([_span(report)])
            held, _, _ = history_of(connection, report, books)
            books.compare(f"history of {report.name} after restatements", held, newest, span)
            published = edge_of(system.edge_url, report, books)
            books.compare(f"edge of {report.name} after restatements", published[0] if published else {}, newest, span)
    _over_quota(system, books)


def _quota(system: System, handles: int, books: Books) -> None:
    summary = _counters(system)["summary"]
    books.counts["requests to the vendor"] = summary["requests"]
    books.counts["answers of 429, all but those over quota on demand"] = summary["rejected_429"]
    books.counts["queries that the vendor took"] = summary["submits"]
    books.counts["queries whose answer to the submit was lost, so that they were asked once more"] = (
        summary["submits"] - handles
    )


def _over_quota(system: System, books: Books) -> None:
    counters = _counters(system)
    for client, times in counters["over_limit"].items():
        for number in range(times):
            books.note("over quota", f"request {number + 1} of {client} beyond the vendor's limit")


def note_fullest(system: System, books: Books) -> None:
    """How near to the vendor's limit the load has come."""
    books.fullest = max(_counters(system)["peak_window_share"].values(), default=0.0)


def _counters(system: System) -> dict[str, dict[str, Any]]:
    return httpx.get(f"{system.vendor_url}/simulator/counters", timeout=20).json()


def _span(report: Declared) -> Interval:
    return Interval(report.midnight(report.days()[0]), report.midnight(report.today()))


def _whole(system: System, where: str, report: Declared, held: Figures, books: Books) -> None:
    truths, span = system.truths.all_of(report), _span(report)
    found = {start for start, _ in held}
    wanted = {start: groups for start, groups in truths[-1].items() if span.start <= start < span.end}
    missing = sorted(wanted.keys() - found)
    if missing:
        books.note("lost", f"{where} lacks {len(missing)} buckets, the first of {missing[0]}")
    books.compare(where, held, truths, IntervalSet([span]))
    books.counts[f"figures compared: {where}"] = sum(map(len, wanted.values()))

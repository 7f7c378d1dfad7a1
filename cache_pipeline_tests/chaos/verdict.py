"""What must be true when all has settled: history, coverage, edge and the vendor's own counters held against the truth."""

import asyncio
from collections.abc import Mapping

import httpx
import psycopg

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.books import Books
from cache_pipeline_tests.chaos.load import Callers, Question, backfill
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.vendor import REPORTS, Declared, Figures
from cache_pipeline_tests.chaos.witness import edge_of, history_of

_PATIENCE_SECONDS = 120
_ATTEMPTS = 4
#: The same question asked and kept twice, though its answer was final the first time.
_KEPT_TWICE = """
    SELECT report, span::text, count(*) FROM cache_pipeline_state.upstream_query
    WHERE state = 'kept' AND upper(span) < asked_at - interval '10 minutes' GROUP BY 1, 2 HAVING count(*) > 1
"""
_HANDLES = "SELECT count(handle) FROM cache_pipeline_state.upstream_query"


async def settle(system: System, callers: Callers, books: Books) -> None:
    """Wait until every promise is kept, then backfill every day once more."""
    await _jobs(system, callers, books)
    _held(system, callers, books)
    await asyncio.gather(*(_backfilled(system, report, books) for report in REPORTS))


async def _backfilled(system: System, report: Declared, books: Books) -> None:
    for _ in range(_ATTEMPTS):
        if not await backfill(system, report, report.days()[0].isoformat(), report.today().isoformat()):
            return
    books.note("lost", f"{report.name} cannot be backfilled: {system.folder}/dagster.log says why")


async def _jobs(system: System, callers: Callers, books: Books) -> None:
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=20) as http:
        for job, question in callers.acknowledged.items():
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    state = await _ended(http, job)
            except TimeoutError:
                state = "still open"
                system.tell()
            books.counts[f"jobs {state}"] += 1
            if state not in ("done", "failed"):
                books.note("lost", f"job {job} about {question.report.name} {question.interval} is {state}")


async def _ended(http: httpx.AsyncClient, job: str) -> str:
    while True:
        answer = await http.get(f"/v1/jobs/{job}")
        if answer.status_code == 404:
            return "unknown"
        state = answer.json().get("state")
        if state not in ("queued", "running", None):
            return state
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


def judge(system: System, truths: Mapping[str, Figures], books: Books) -> None:
    """Compare all that is kept with the truth, to the row."""
    with psycopg.connect(system.postgres_url, autocommit=True) as connection:
        for report in REPORTS:
            truth = truths[report.name]
            held, complete, _ = history_of(connection, report, books)
            span = Interval(report.midnight(report.days()[0]), report.midnight(report.today()))
            if not complete.covers(span):
                books.note("lost", f"coverage of {report.name} lacks {IntervalSet([span]) - complete}")
            _whole(f"history of {report.name}", span, held, truth, books)
            published = edge_of(system.edge_url, report, books)
            _whole(f"edge of {report.name}", span, published[0] if published else {}, truth, books)
        for name, asked, times in connection.execute(_KEPT_TWICE).fetchall():
            books.note("doubled", f"{name} {asked} was asked for and kept {times} times")
        ((handles,),) = connection.execute(_HANDLES).fetchall()
    counters = httpx.get(f"{system.vendor_url}/simulator/counters", timeout=20).json()
    for client, times in counters["over_limit"].items():
        for number in range(times):
            books.note("over quota", f"request {number + 1} of {client} beyond the vendor's limit")
    summary = counters["summary"]
    books.counts["requests to the vendor"] = summary["requests"]
    books.counts["answers of 429, all but those over quota on demand"] = summary["rejected_429"]
    books.counts["queries that the vendor took"] = summary["submits"]
    books.counts["queries whose answer to the submit was lost, so that they were asked once more"] = (
        summary["submits"] - handles
    )


def _whole(where: str, span: Interval, held: Figures, truth: Figures, books: Books) -> None:
    wanted = [key for key in truth if span.start <= key[0] < span.end]
    missing = sorted(key for key in wanted if key not in held)
    if missing:
        books.note("lost", f"{where} lacks {len(missing)} figures, the first of {missing[0][0]} {missing[0][1]}")
    books.compare(where, held, truth, IntervalSet([span]))
    books.counts[f"figures compared: {where}"] = len(wanted)

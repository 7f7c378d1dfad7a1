"""Callers of the HTTP API and backfills of Dagster, all the while."""

import asyncio
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.books import Books
from cache_pipeline_tests.chaos.processes import kill, started
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.vendor import REPORTS, Declared, Figures

_ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Question:
    """What was asked of a report: local days, the last of which may be today."""

    report: Declared
    interval: str

    @property
    def path(self) -> str:
        """Of the API."""
        return f"/v1/reports/{self.report.name}"


class Callers:
    """Asks questions of the HTTP API until told to stop.

    Attributes:
        acknowledged: jobs that the API has promised.
    """

    def __init__(self, url: str, truths: Mapping[str, Figures], books: Books, seed: int) -> None:
        self.acknowledged: dict[str, Question] = {}
        self._url, self._truths, self._books, self._seed = url, truths, books, seed

    async def run(self, number: int, over: asyncio.Event) -> None:
        """One caller."""
        dice = random.Random(self._seed * 1000 + number)
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as http:
            while not over.is_set():
                try:
                    await self._ask(http, _question(dice), dice, over)
                except httpx.HTTPError:
                    self._books.counts["requests to the API that failed"] += 1
                    await asyncio.sleep(0.2)
                await asyncio.sleep(dice.uniform(0.02, 0.3))

    async def _ask(self, http: httpx.AsyncClient, question: Question, dice: random.Random, over: asyncio.Event) -> None:
        answer = await http.get(
            question.path,
            params={"interval": question.interval},
            headers={"Prefer": dice.choice(["wait=2", "respond-async"])},
        )
        self._books.counts[f"answers {answer.status_code} of the API"] += 1
        if answer.status_code == 200:
            self._check(question, answer)
        elif answer.status_code == 202:
            job = answer.json()["id"]
            self.acknowledged[job] = question
            await self._follow(http, job, over)
        else:
            self._books.counts[f"problem {answer.status_code}: {answer.json().get('detail', '')[:100]}"] += 1

    async def _follow(self, http: httpx.AsyncClient, job: str, over: asyncio.Event) -> None:
        for _ in range(8):
            await asyncio.sleep(0.5)
            if over.is_set() or (await http.get(f"/v1/jobs/{job}")).json().get("state") in _ENDED:
                return

    def _check(self, question: Question, answer: httpx.Response) -> None:
        body = answer.json()
        asked = Interval.parse(body["interval"])
        through = datetime.fromisoformat(body["completeThrough"])
        complete = IntervalSet([Interval(asked.start, through)] if asked.start < through else [])
        place = body["columns"].index(question.report.column)
        group = body["columns"].index("queue_id")
        figures = {(datetime.fromisoformat(row[0]), row[group]): row[place] for row in body["rows"]}
        if len(figures) != len(body["rows"]):
            self._books.note("doubled", f"an answer about {question.report.name} {question.interval}")
        self._books.compare(
            f"an answer about {question.report.name} {question.interval}",
            figures,
            self._truths[question.report.name],
            complete,
        )


def _question(dice: random.Random) -> Question:
    report = dice.choice(REPORTS)
    days = [*report.days(), report.today()]
    first = dice.randrange(len(days))
    end = min(first + dice.randint(1, 3), len(days))
    return Question(report, report.interval(days[first], days[end - 1] + timedelta(days=1)))


async def backfills(system: System, books: Books, seed: int, over: asyncio.Event) -> None:
    """One backfill after another, of some days of a report, each a Dagster run in a process of its own."""
    dice = random.Random(seed)
    while not over.is_set():
        report = dice.choice(REPORTS)
        days = report.days()
        first = dice.randrange(len(days) - 1)
        end = min(first + dice.randint(2, 5), len(days) - 1)
        code = await backfill(system, report, days[first].isoformat(), days[end].isoformat(), over)
        books.counts[f"backfills that {_ended(code)}"] += 1


def _ended(code: int) -> str:
    return {0: "succeeded", -9: "were killed"}.get(code, "failed")


async def backfill(system: System, report: Declared, first: str, end: str, over: asyncio.Event | None = None) -> int:
    """Run one to its end; returns its exit code."""
    module = "cache_pipeline.orchestration.backfill"
    command = [sys.executable, "-m", module, report.name, first, end, "--alone"]
    process = system.dagster = started(command, system.environment, system.folder, system.folder / "dagster.log")
    try:
        while process.poll() is None:
            if over is not None and over.is_set():
                kill(process)
            await asyncio.sleep(0.1)
    finally:
        kill(process)
    return process.returncode

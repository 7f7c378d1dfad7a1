"""Callers of the HTTP API and backfills of Dagster, all the while."""

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import httpx

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.chaos.accounts import Books
from cache_pipeline_tests.chaos.processes import kill, started
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.truth import Truths
from cache_pipeline_tests.chaos.vendor import REPORTS, Declared

_ENDED = ("done", "failed", "cancelled")
#: Questions about some hours, about some days, and about today with the wish for figures of now.
_HOURS, _DAYS = 0.6, 0.2
_CROWD_SECONDS = 15.0


@dataclass(frozen=True)
class Question:
    """What was asked of a report: local hours or days, the last of which may be today's.

    Attributes:
        report: of which.
        interval: in UTC.
        anew: whether figures that may still change are asked of the vendor once more.
    """

    report: Declared
    interval: str
    anew: bool = False

    @property
    def path(self) -> str:
        """Of the API."""
        return f"/v1/reports/{self.report.name}"

    @property
    def headers(self) -> dict[str, str]:
        """Beside the preference."""
        return {"Cache-Control": "no-cache"} if self.anew else {}


class Callers:
    """Asks questions of the HTTP API until told to stop.

    Attributes:
        acknowledged: jobs that the API has promised.
    """

    def __init__(self, url: str, truths: Truths, books: Books, seed: int) -> None:
        self.acknowledged: dict[str, Question] = {}
        self._url, self._truths, self._books, self._seed = url, truths, books, seed

    async def run(self, number: int, over: asyncio.Event) -> None:
        """One caller."""
        dice, began = random.Random(self._seed * 1000 + number), time.monotonic()
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as http:
            while not over.is_set():
                try:
                    await self._ask(http, _question(dice), dice, over)
                except httpx.HTTPError:
                    self._books.counts["requests to the API that failed"] += 1
                    await asyncio.sleep(0.2)
                # A crowd that fills the quota, and quieter times in which backfills get their share of it.
                crowded = (time.monotonic() - began) % (2 * _CROWD_SECONDS) < _CROWD_SECONDS
                await asyncio.sleep(dice.uniform(0.02, 0.3) if crowded else dice.uniform(1.0, 3.0))

    async def weeks(self, cuts: asyncio.Queue[None], over: asyncio.Event) -> None:
        """Ask for a whole week whenever answers are cut: for one that nobody has asked for."""
        unasked = [
            Question(each, each.interval(day, day + timedelta(days=7))) for each in REPORTS for day in each.weeks()
        ]
        random.Random(self._seed).shuffle(unasked)
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as http:
            while unasked and not over.is_set():
                try:
                    await asyncio.wait_for(cuts.get(), 0.5)
                except TimeoutError:
                    continue
                for question in [unasked.pop() for _ in range(min(2, len(unasked)))]:
                    await self._promised(http, question)

    async def _promised(self, http: httpx.AsyncClient, question: Question) -> None:
        try:
            answer = await http.get(
                question.path, params={"interval": question.interval}, headers={"Prefer": "respond-async"}
            )
        except httpx.HTTPError:
            self._books.counts["requests to the API that failed"] += 1
            return
        if answer.status_code == 202:
            self.acknowledged[answer.json()["id"]] = question
            self._books.counts["weeks asked for while answers were cut"] += 1

    async def answered(self, http: httpx.AsyncClient, question: Question) -> bool:
        """Ask until there is an answer, and hold that against the truth; False where there is none for long."""
        for _ in range(6):
            answer = await http.get(
                question.path, params={"interval": question.interval}, headers={"Prefer": "wait=20", **question.headers}
            )
            if answer.status_code == 200:
                await asyncio.to_thread(self._check, question, answer)
                return True
        return False

    async def _ask(self, http: httpx.AsyncClient, question: Question, dice: random.Random, over: asyncio.Event) -> None:
        answer = await http.get(
            question.path,
            params={"interval": question.interval},
            headers={"Prefer": dice.choice(["wait=2", "respond-async"]), **question.headers},
        )
        self._books.counts[f"answers {answer.status_code} of the API"] += 1
        if answer.status_code == 200:
            # Whoever restates the truth just now is waited for, and the proxies must not wait with us.
            await asyncio.to_thread(self._check, question, answer)
        elif answer.status_code == 202:
            job = answer.json()["id"]
            self.acknowledged[job] = question
            if dice.random() < 0.5:
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
        group, *places = (body["columns"].index(name) for name in ("queue_id", *question.report.columns))
        figures = {
            (datetime.fromisoformat(row[0]), row[group]): (row[places[0]] or 0, int(row[places[1]] or 0))
            for row in body["rows"]
        }
        where = f"an answer about {question.report.name} {question.interval}"
        if len(figures) != len(body["rows"]):
            self._books.note("doubled", where)
        told = {key: figure for key, figure in figures.items() if any(figure)}
        self._books.compare(where, told, self._truths.all_of(question.report), complete)


def _question(dice: random.Random) -> Question:
    report, kind = dice.choice(REPORTS), dice.random()
    days = [*report.recent_days(), report.today()]
    if kind < _HOURS:
        midnight = report.midnight(dice.choice(days[:-1]))
        first = midnight + timedelta(hours=dice.randrange(20))
        return Question(report, _utc(first, first + timedelta(hours=dice.randint(1, 4))))
    if kind < _HOURS + _DAYS:
        first_day = dice.randrange(len(days))
        end = min(first_day + dice.randint(1, 3), len(days))
        return Question(report, report.interval(days[first_day], days[end - 1] + timedelta(days=1)))
    return Question(report, report.interval(days[-1], days[-1] + timedelta(days=1)), anew=True)


def _utc(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}"


async def backfills(system: System, books: Books, seed: int, over: asyncio.Event) -> None:
    """One backfill after another, each a Dagster run in a process of its own: some days of a report, or what was restated."""
    dice = random.Random(seed)
    while not over.is_set():
        report = dice.choice(REPORTS)
        days = report.recent_days()
        again = bool(system.truths.restated) and dice.random() < 0.5
        if again:
            first, end = around(report, [dice.choice(system.truths.restated)])
            system.asked_again.append((report.name, Interval(report.midnight(first), report.midnight(end))))
        else:
            place = dice.randrange(len(days) - 1)
            first, end = days[place], days[min(place + dice.randint(2, 5), len(days) - 1)]
        code = await backfill(system, report, first, end, over=over, again=again)
        books.counts[f"backfills that {_ended(code)}{', of restated days' if again else ''}"] += 1


def around(report: Declared, restated: list[date]) -> tuple[date, date]:
    """The first and the end of a report's days around days of the organisation: so many that an answer may be cut.

    At least a day before and after, for the report has a zone of its own, and calls are long.
    """
    days = report.days()
    first, last = min(restated) - timedelta(days=4), max(restated) + timedelta(days=4)
    return max(first, days[0]), min(last, days[-1]) + timedelta(days=1)


def _ended(code: int) -> str:
    return {0: "succeeded", -9: "were killed"}.get(code, "failed")


async def backfill(
    system: System,
    report: Declared,
    first: date,
    end: date,
    *,
    over: asyncio.Event | None = None,
    again: bool = False,
) -> int:
    """Run one to its end; returns its exit code."""
    module = "cache_pipeline.orchestration.backfill"
    days = (first.isoformat(), end.isoformat())
    command = [sys.executable, "-m", module, report.name, *days, "--exclusive", *(["--refetch"] if again else [])]
    process = system.dagster = started(command, system.environment, system.folder, system.folder / "dagster.log")
    try:
        while process.poll() is None:
            if over is not None and over.is_set():
                kill(process)
            await asyncio.sleep(0.1)
    finally:
        kill(process)
    return process.returncode

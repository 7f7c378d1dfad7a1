"""One run: everything starts, is struck for a while, settles, and is judged."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache_pipeline_tests.chaos.accounts import Books
from cache_pipeline_tests.chaos.load import Callers, backfills
from cache_pipeline_tests.chaos.schedule import Strike
from cache_pipeline_tests.chaos.system import System
from cache_pipeline_tests.chaos.verdict import ask_again, judge, judge_newest, note_fullest, settle
from cache_pipeline_tests.chaos.witness import Witness

_CALLERS = 8


@dataclass(frozen=True)
class Run:
    """What a run is told.

    Attributes:
        folder: empty; project, data and logs go there.
        seed: of the callers' questions.
        seconds: of trouble.
        strikes: the schedule.
        tell: hears what is being done, and how far the trouble is, from 0 to 1.
    """

    folder: Path
    seed: int
    seconds: float
    strikes: list[Strike]
    tell: Callable[[str, float], None]

    async def go(self) -> Books:
        """Do it."""
        books, system = Books(), System(self.folder)
        try:
            self.tell("starting everything", 0)
            await system.start()
            callers = Callers(system.api_url, system.truths, books, self.seed)
            witness = Witness(system.postgres_url, system.edge_url, system.truths, books)
            witness.start()
            try:
                await self._trouble(system, callers, books)
                await asyncio.to_thread(note_fullest, system, books)
                self.tell("settling: promised jobs, then all days once more", 1)
                await system.calm()
                await settle(system, callers, books)
                self.tell("comparing", 1)
                await asyncio.to_thread(judge, system, books)
                self.tell("asking again for what was restated, and comparing once more", 1)
                await ask_again(system, books)
                await asyncio.to_thread(judge_newest, system, books)
            finally:
                witness.stop()
            for name, times in system.ended_by_itself().items():
                if times:
                    books.counts[f"{name} ended by itself and was started again"] = times
            books.counts["edge on a file system of its own that ran full"] = int(system.disk.is_real)
        finally:
            self.tell("stopping", 1)
            await system.stop()
        return books

    async def _trouble(self, system: System, callers: Callers, books: Books) -> None:
        over, began = asyncio.Event(), time.monotonic()
        load = [asyncio.create_task(callers.run(number, over)) for number in range(_CALLERS)]
        load.append(asyncio.create_task(callers.weeks(system.cuts, over)))
        load.append(asyncio.create_task(backfills(system, books, self.seed, over)))
        struck: list[asyncio.Task[None]] = []
        busy: dict[str, asyncio.Lock] = {}

        async def one(strike: Strike) -> None:
            # Two strikes at one thing come one after the other.
            async with busy.setdefault(strike.target, asyncio.Lock()):
                await system.strike(strike)

        for strike in self.strikes:
            while (passed := time.monotonic() - began) < strike.at:
                self.tell("", passed / self.seconds)
                await asyncio.sleep(min(0.5, strike.at - passed))
            self.tell(str(strike), passed / self.seconds)
            books.counts[f"struck: {strike.kind} {strike.target}"] += 1
            struck.append(asyncio.create_task(one(strike)))
        while (passed := time.monotonic() - began) < self.seconds:
            self.tell("", passed / self.seconds)
            await asyncio.sleep(0.5)
        over.set()
        await asyncio.gather(*struck, *load)

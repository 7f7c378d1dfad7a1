"""Fetches the chunks of a session side by side, and stops after a refusal that every further query would meet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cache_pipeline.aio import cancel_and_wait, retrieve_exception
from cache_pipeline.errors import ClientUnknown, UpstreamError
from cache_pipeline.fetch.chunk_states import ChunkOutcome, Failed, Missing, Split
from cache_pipeline.fetch.upstream_jobs import QueryProgress
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval

#: Chunks of one session that are fetched at the same time.
CONCURRENCY = 16

#: What happens while chunks are fetched, in order.
ChunkEvent = ChunkResult | QueryProgress | ChunkOutcome


class FetchesChunks(Protocol):
    """Takes one chunk to the end of its states."""

    async def fetch(self, missing: Missing, /) -> ChunkOutcome:
        """Return what became of the chunk; never raise an error of the vendor or of a store."""
        ...


@dataclass
class _WorkList:
    """The chunks of a session that wait for their turn.

    Attributes:
        waiting: Chunks that have not begun.
        known: The chunks that wait, are in work or have ended; none is fetched twice.
        refusal: The error that every further query would meet; None while there is none.
        has_ended_one: Whether the first chunk has ended.
    """

    waiting: deque[Missing]
    known: set[Interval] = field(default_factory=set[Interval])
    refusal: Exception | None = None
    has_ended_one: bool = False

    @classmethod
    def of(cls, chunks: Iterable[Interval]) -> _WorkList:
        """Return the chunks of a session that begins."""
        waiting = deque(Missing(chunk) for chunk in chunks)
        return cls(waiting, {each.chunk for each in waiting})

    def apply(self, chunk: Interval, outcome: ChunkOutcome) -> None:
        """Take note of what became of a chunk."""
        if isinstance(outcome, Split):
            # It is not in work any more; a longer job that replaces it may be split into it again.
            self.known.discard(chunk)
            parts = [part for part in outcome.chunks if part not in self.known]
            self.known.update(parts)
            self.waiting.extendleft(Missing(part, is_part=True) for part in reversed(parts))
        else:
            self.has_ended_one = True
        if isinstance(outcome, Failed) and is_permanent(outcome.error):
            self.refusal = outcome.error


def is_permanent(error: Exception) -> bool:
    """Return whether any further query would be refused too: the login, the permission or the query itself is wrong."""
    return (
        isinstance(error, UpstreamError)
        and not error.retryable
        and not error.is_too_large
        and not isinstance(error, ClientUnknown)
    )


async def fetch_chunks(
    fetcher: FetchesChunks,
    chunks: Iterable[Interval],
    events: asyncio.Queue[ChunkEvent | None],
    concurrency: int = CONCURRENCY,
) -> None:
    """Put the outcome of every chunk on the queue, then None.

    The first chunk is fetched alone, because it shows how many rows a bucket has: the others are checked against that instead
    of being split needlessly.

    Args:
        fetcher: Fetches one chunk.
        chunks: The chunks, in order.
        events: The queue.
        concurrency: The number of chunks that are fetched at the same time.
    """
    work = _WorkList.of(chunks)
    running: dict[asyncio.Task[ChunkOutcome], Interval] = {}
    try:
        while work.waiting or running:
            while work.waiting and len(running) < (concurrency if work.has_ended_one else 1):
                missing = work.waiting.popleft()
                if work.refusal is not None:
                    events.put_nowait(Failed(missing.chunk, work.refusal))
                else:
                    running[asyncio.create_task(fetcher.fetch(missing))] = missing.chunk
            if not running:
                continue
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                work.apply(running.pop(task), outcome := task.result())
                events.put_nowait(outcome)
    finally:
        await cancel_and_wait(running)
        for task in running:
            retrieve_exception(task)
        events.put_nowait(None)

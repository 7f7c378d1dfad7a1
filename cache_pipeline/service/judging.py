"""Turns vendor answers into rows that are proven complete: doubt, split, ask the parts, compare (G13, G22)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cache_pipeline.query.calendar import buckets, split
from cache_pipeline.query.completeness import (
    Density,
    Expectation,
    JudgedChunk,
    Source,
    Verdict,
    falls_short,
    final_buckets,
    part_falls_short,
)
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.rows.digest import merged
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.asking import VendorAnswer


class IncompleteAnswer(RuntimeError):
    """Rows are missing and nothing smaller can be asked for; nothing of the interval is kept."""

    def __init__(self, report: str, chunk: JudgedChunk) -> None:
        self.chunk = chunk
        super().__init__(
            f"{report} {chunk.interval}: the vendor gives {chunk.got} rows where {chunk.expected:.0f} are expected "
            f"(by {chunk.source}) even for a single bucket: narrow the report by filters, or mend expected_groups"
        )


@dataclass(frozen=True)
class Proven:
    """Rows of an interval that may be kept.

    Attributes:
        interval: what they are the whole of.
        rows: in the report's schema.
        watermark: until when they are complete; the earliest of the answers they come from.
        fetched_at: when the first of those was asked for.
        chunks: how each answer on the way was judged.
        from_history: the part that history held by the time it was to be asked for, and of that ``not_asked_again`` what
            is not final.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    chunks: tuple[JudgedChunk, ...]
    from_history: IntervalSet = field(default_factory=IntervalSet)
    not_asked_again: IntervalSet = field(default_factory=IntervalSet)


Ask = Callable[[Interval], Awaitable[VendorAnswer]]
OnChunk = Callable[[JudgedChunk], None]
T = TypeVar("T")


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results; when one fails the others are stopped, for they would be asked for in vain."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Judge:
    """Judges the answers of one series, learning as it goes what its buckets hold and where the vendor cuts.

    Attributes:
        report: the declaration.
        density: what comparable buckets had.
        ask: sends one query.
        on_chunk: hears of every verdict as it falls.
        least_cut: rows of the shortest answer that proved to be cut off, or None.
        longest_whole: final rows of the longest answer that was found whole, or -1. A vendor that cuts at some length has not
            cut a shorter one, so history may judge that; a longer one is held against the declaration, for a history of
            thin days would believe anything.
    """

    report: Report
    density: Density
    ask: Ask
    on_chunk: OnChunk
    least_cut: int | None = None
    longest_whole: int = -1

    async def prove(self, interval: Interval) -> Proven:
        """Ask for an interval until what came is proven whole.

        Raises:
            IncompleteAnswer: a single bucket is still cut off.
            UpstreamError, SchemaMismatch: as asking does.
        """
        if self._would_be_cut(interval):
            parts = split(interval, self.report.step, self.report.zone)
            return self._merged(interval, await together(self.prove(part) for part in parts), ())
        return await self._judge(await self.ask(interval))

    def _would_be_cut(self, interval: Interval) -> bool:
        """Whether an answer as long as this one's should be has been cut before, so that asking would be in vain."""
        if self.least_cut is None or not split(interval, self.report.step, self.report.zone):
            return False
        return self.density.expect(buckets(interval, self.report.step, self.report.zone)).rows >= self.least_cut

    async def _judge(self, answer: VendorAnswer, *, doubted: bool = False) -> Proven:
        final = self._final(answer)
        expectation = self._expect(answer, final)
        if expectation.source is Source.none:
            return self._accept(answer, final, expectation, Verdict.unjudged)
        doubtful = self._is_doubtful(answer, final, expectation)
        parts = split(answer.interval, self.report.step, self.report.zone)
        if not doubtful and not (doubted and parts):
            return self._accept(answer, final, expectation, Verdict.whole)
        if not parts:
            if self.least_cut is not None and answer.rows.num_rows >= self.least_cut:
                chunk = self._chunk(answer, final, expectation, Verdict.incomplete)
                raise IncompleteAnswer(self.report.report, chunk)
            # One bucket, shorter than any answer that was cut: it was not cut, it is thin.
            return self._accept(answer, final, expectation, Verdict.thin)
        answers = await together(self.ask(part) for part in parts)
        # A part with all the rows may have been cut at the same row as the whole, and proves nothing until it is proven.
        alone = any(part.rows.num_rows == answer.rows.num_rows > 0 for part in answers)
        agree = self._say_the_same(answer, answers)
        if agree and not alone:
            return self._accept(answer, final, expectation, Verdict.thin, asked_besides=answers)
        if agree:
            length = answer.rows.num_rows
            proven = await together(self._judge(part, doubted=part.rows.num_rows == length) for part in answers)
            agree = self._say_the_same(answer, proven)
            chunk = self._chunk(answer, final, expectation, Verdict.thin if agree else self._cut(answer))
        else:
            chunk = self._chunk(answer, final, expectation, self._cut(answer))
            proven = await together(self._judge(part) for part in answers)
        return self._merged(answer.interval, proven, (chunk,))

    def _cut(self, answer: VendorAnswer) -> Verdict:
        """Remember where an answer was cut."""
        length = answer.rows.num_rows
        self.least_cut = min(length, self.least_cut or length)
        return Verdict.truncated

    def _merged(self, interval: Interval, parts: Sequence[Proven], above: tuple[JudgedChunk, ...]) -> Proven:
        return Proven(
            interval,
            Rows.joined(parts[0].rows.schema, (part.rows for part in parts)),
            min(part.watermark for part in parts),
            min(part.fetched_at for part in parts),
            (*above, *(chunk for part in parts for chunk in part.chunks)),
        )

    def _is_doubtful(self, answer: VendorAnswer, final: list[Interval], expectation: Expectation) -> bool:
        found = answer.rows.count(final)
        if falls_short(found, expectation.rows):
            return True
        parts = split(answer.interval, self.report.step, self.report.zone)
        # Exactly as long as an answer that was cut: by chance, or by the same limit.
        if answer.rows.num_rows == self.least_cut and (parts or found < expectation.rows):
            return True
        # A cut-off answer may keep 80 % and lose its tail, so each part is held against its own expectation too.
        for part in parts:
            inside = [bucket for bucket in final if part.contains(bucket)]
            if part_falls_short(answer.rows.count(inside), self._expect(answer, inside).rows):
                return True
        return False

    def _expect(self, answer: VendorAnswer, final: list[Interval]) -> Expectation:
        if self.report.rows is not None:
            # How many conversations there are, nobody knows beforehand: the watermark and the paging are the proof.
            return Expectation(0.0, Source.none)
        if answer.rows.num_rows > self.longest_whole:
            return self.density.expect_as_declared(final)
        return self.density.expect(final)

    def _say_the_same(self, whole: VendorAnswer, parts: Sequence[VendorAnswer | Proven]) -> bool:
        """Whether parts and whole agree on every bucket that was final when the whole was asked for."""
        settled = self._final(whole)
        said, meant = merged(part.rows.tallies for part in parts), whole.rows.tallies
        return all(said.get(bucket.start) == meant.get(bucket.start) for bucket in settled)

    def _final(self, answer: VendorAnswer) -> list[Interval]:
        return final_buckets(buckets(answer.interval, self.report.step, self.report.zone), answer.watermark)

    def _accept(
        self,
        answer: VendorAnswer,
        final: list[Interval],
        expectation: Expectation,
        verdict: Verdict,
        asked_besides: list[VendorAnswer] | None = None,
    ) -> Proven:
        self.density.learn({bucket: answer.rows.count([bucket]) for bucket in final})
        chunk = self._chunk(answer, final, expectation, verdict, asked_besides)
        if verdict is not Verdict.unjudged and final:
            self.longest_whole = max(self.longest_whole, chunk.got)
        return Proven(answer.interval, answer.rows, answer.watermark, answer.fetched_at, (chunk,))

    def _chunk(
        self,
        answer: VendorAnswer,
        final: list[Interval],
        expectation: Expectation,
        verdict: Verdict,
        asked_besides: list[VendorAnswer] | None = None,
    ) -> JudgedChunk:
        chunk = JudgedChunk(
            interval=answer.interval,
            expected=expectation.rows,
            source=expectation.source,
            got=answer.rows.count(final),
            verdict=verdict,
            calls=answer.calls + sum(part.calls for part in asked_besides or ()),
            seconds=answer.seconds,
            watermark=answer.watermark,
        )
        self.on_chunk(chunk)
        return chunk

"""Turns vendor answers into rows that are proven complete: doubt, split, ask the parts, compare (G13, G22)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cache_pipeline.aio import gather_or_cancel
from cache_pipeline.errors import CachePipelineError
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.query.calendar import list_buckets, split
from cache_pipeline.query.completeness import (
    MIN_TRUNCATION_ROWS,
    ChunkResult,
    Expectation,
    ExpectationSource,
    RowDensity,
    TruncationStats,
    Verdict,
    falls_short,
    final_buckets,
    part_falls_short,
    tail_falls_short,
)
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.rows.digest import merge_tallies
from cache_pipeline.rows.rows import Rows


class IncompleteAnswer(CachePipelineError):
    """Rows are missing and nothing smaller can be asked for; nothing of the interval is kept."""

    http_status = 502
    problem_type = "incomplete-answer"

    def __init__(self, report: str, chunk: ChunkResult) -> None:
        self.chunk = chunk
        super().__init__(
            f"{report} {chunk.interval}: the vendor gives {chunk.got} rows where {chunk.expected:.0f} are expected "
            f"(by {chunk.source}) even for a single bucket: narrow the report by filters, or mend expected_groups"
        )


@dataclass(frozen=True)
class VerifiedRows:
    """Rows of an interval that may be kept.

    Attributes:
        interval: what they are the whole of.
        rows: in the report's schema.
        watermark: until when they are complete; the earliest of the answers they come from.
        fetched_at: when the first of those was asked for.
        chunks: how each answer on the way was judged.
        from_history: the part that history held by the time it was to be asked for, and of that ``provisional_from_history`` what
            is not final.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    chunks: tuple[ChunkResult, ...]
    from_history: IntervalSet = field(default_factory=IntervalSet)
    provisional_from_history: IntervalSet = field(default_factory=IntervalSet)


#: A vendor that limits bytes does not cut at always the same number of rows.
_NEAR = 0.95

Ask = Callable[[Interval], Awaitable[VendorResponse]]
OnChunk = Callable[[ChunkResult], None]


@dataclass(frozen=True)
class _Assessment:
    """One answer that is being judged.

    Attributes:
        answer: the vendor's.
        within: what is to be proven, of which it answers all or a part.
        final: its buckets that lie before its watermark; the others are never judged.
        expectation: of the final ones together.
        parts: what it can be split into; none where it is a single bucket.
        compared: answers that were asked for to be held against it, and are not kept themselves.
    """

    answer: VendorResponse
    within: Interval
    final: list[Interval]
    expectation: Expectation
    parts: list[Interval]
    compared: list[VendorResponse] = field(default_factory=list[VendorResponse])

    @property
    def length(self) -> int:
        """Rows of the answer."""
        return self.answer.rows.num_rows

    def tail(self) -> list[Interval]:
        """The last final bucket that has rows, and the empty ones after it."""
        filled = [place for place, bucket in enumerate(self.final) if self.answer.rows.count([bucket])]
        return self.final[filled[-1] :] if filled else self.final[-1:]

    def agrees_with(self, others: Sequence[VendorResponse | VerifiedRows], on: Iterable[Interval]) -> bool:
        """Whether others say the same of some of its final buckets."""
        said, meant = merge_tallies(other.rows.tallies for other in others), self.answer.rows.tallies
        return all(said.get(bucket.start) == meant.get(bucket.start) for bucket in on)

    def has_fewer_than(self, others: Sequence[VendorResponse | VerifiedRows]) -> bool:
        """Whether others have more rows in its final buckets."""
        return self.answer.rows.count(self.final) < sum(other.rows.count(self.final) for other in others)


@dataclass
class CompletenessChecker:
    """Judges the answers of one series, learning as it goes what its buckets hold and where the vendor cuts.

    Attributes:
        report: the declaration.
        density: what comparable buckets had.
        ask: sends one query.
        on_chunk: hears of every verdict as it falls.
        lengths: of its answers.
        min_truncation_rows: shorter answers were not cut by a limit of the vendor's.
    """

    report: Report
    density: RowDensity
    ask: Ask
    on_chunk: OnChunk
    lengths: TruncationStats = field(default_factory=TruncationStats)
    min_truncation_rows: int = MIN_TRUNCATION_ROWS
    _probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _met: set[tuple[int, Interval]] = field(default_factory=set[tuple[int, Interval]])

    async def prove(self, interval: Interval) -> VerifiedRows:
        """Ask for an interval until what came is proven whole.

        Raises:
            IncompleteAnswer: a single bucket is still cut off.
            UpstreamError, SchemaMismatch: as asking does.
        """
        return await self._prove(interval, interval)

    async def _prove(self, interval: Interval, within: Interval) -> VerifiedRows:
        if self.would_be_cut(interval):
            parts = split(interval, self.report.step, self.report.zone)
            return _merge(interval, await gather_or_cancel(self._prove(part, within) for part in parts), ())
        return await self._judge(await self.ask(interval), within)

    def would_be_cut(self, interval: Interval) -> bool:
        """Whether an answer as long as this one's should be has been cut before, so that asking would be in vain."""
        if self.lengths.shortest_truncated is None or not split(interval, self.report.step, self.report.zone):
            return False
        return (
            self.density.expect(list_buckets(interval, self.report.step, self.report.zone)).rows
            >= self.lengths.shortest_truncated
        )

    async def _judge(self, answer: VendorResponse, within: Interval, *, doubted: bool = False) -> VerifiedRows:
        case = self._case(answer, within)
        if not (doubted and case.parts) and await self._is_believed(case):
            is_unjudged = case.expectation.source is ExpectationSource.none and not case.compared
            return self._accept(case, Verdict.unverified if is_unjudged else Verdict.complete)
        if not case.parts:
            if await self._is_cut_by_the_limit(case):
                raise IncompleteAnswer(self.report.name, self._chunk(case, Verdict.incomplete))
            # One bucket, shorter than any answer that was cut: it was not cut, it is thin.
            return self._accept(case, Verdict.sparse)
        answers = await gather_or_cancel(self._part(case, part) for part in case.parts)
        # A part with all the rows may have been cut at the same row as the whole, and proves nothing until it is proven.
        alone = any(part.rows.num_rows == case.length > 0 for part in answers)
        agree = case.agrees_with(answers, case.final)
        if agree and not alone:
            case.compared.extend(answers)
            return self._accept(case, Verdict.sparse, split=True)
        if agree:
            proven = await gather_or_cancel(
                self._judge(part, within, doubted=part.rows.num_rows == case.length) for part in answers
            )
            chunk = self._chunk(case, self._verdict(case, proven), split=True)
        else:
            chunk = self._chunk(case, self._verdict(case, answers), split=True)
            proven = await gather_or_cancel(self._judge(part, within) for part in answers)
        return _merge(answer.interval, proven, (chunk,))

    async def _is_cut_by_the_limit(self, case: _Assessment) -> bool:
        """Whether a single bucket is as long as an answer that was cut, and no other answer is longer.

        An answer that was broken off once looks like one that met a limit, until something longer is answered.
        """
        async with self._probing:
            limit = self.lengths.shortest_truncated
            if limit is None or case.length < limit:
                return False
            if (limit, case.within) in self._met:
                return True
            for interval in self._probes(case.within):
                probe = await self.ask(interval)
                case.compared.append(probe)
                says_otherwise = interval.contains(case.answer.interval) and not case.agrees_with([probe], case.final)
                if probe.rows.num_rows > limit / _NEAR and not says_otherwise:
                    self.lengths = replace(self.lengths, shortest_truncated=None)
                    return False
            self._met.add((limit, case.within))
            return True

    def _probes(self, within: Interval) -> list[Interval]:
        """Nearly all of an interval: what a cut loses first is in the first. What it is split into has been asked."""
        inside = list_buckets(within, self.report.step, self.report.zone)
        if len(inside) <= 2:
            return []
        nearly = [Interval(inside[1].start, within.end), Interval(within.start, inside[-2].end)]
        return [each for each in nearly if each not in split(within, self.report.step, self.report.zone)]

    async def _part(self, case: _Assessment, part: Interval) -> VendorResponse:
        """A part's answer: the tail may have been one."""
        for number, other in enumerate(case.compared):
            if other.interval == part:
                return case.compared.pop(number)
        return await self.ask(part)

    def _case(self, answer: VendorResponse, within: Interval) -> _Assessment:
        report = self.report
        final = final_buckets(list_buckets(answer.interval, report.step, report.zone), answer.watermark)
        parts = split(answer.interval, report.step, report.zone)
        return _Assessment(answer, within, final, self._expect(answer, final), parts)

    def _expect(self, answer: VendorResponse, final: list[Interval]) -> Expectation:
        if self.report.rows is not None:
            # How many conversations there are, nobody knows beforehand: the watermark and the paging are the proof.
            return Expectation(0.0, ExpectationSource.none)
        if answer.rows.num_rows > self.lengths.longest_complete:
            return self.density.expect_as_declared(final)
        return self.density.expect(final)

    async def _is_believed(self, case: _Assessment) -> bool:
        if case.expectation.source is not ExpectationSource.none and self._is_doubtful(case):
            return False
        if not case.parts or not case.final or not self._may_lack_its_tail(case):
            return True
        tail = case.tail()
        interval = Interval(tail[0].start, tail[-1].end)
        if interval == case.answer.interval:
            return False
        # A cut loses the end first, whatever rows come last, and a tail by itself is too short to be cut at that length.
        case.compared.append(await self.ask(interval))
        return case.agrees_with(case.compared, tail)

    def _is_doubtful(self, case: _Assessment) -> bool:
        """Whether there are fewer rows than there should be, in all or in a part."""
        found = case.answer.rows.count(case.final)
        if falls_short(found, case.expectation.rows):
            return True
        # Exactly as long as an answer that was cut: by chance, or by the same limit.
        if case.length == self.lengths.shortest_truncated and (case.parts or found < case.expectation.rows):
            return True
        # A cut-off answer may keep 80 % and lose its tail, so each part is held against its own expectation too.
        for part in case.parts:
            inside = [bucket for bucket in case.final if part.contains(bucket)]
            if part_falls_short(case.answer.rows.count(inside), self._expect(case.answer, inside).rows):
                return True
        return False

    def _may_lack_its_tail(self, case: _Assessment) -> bool:
        """Whether an answer with rows enough is as long as a cut one may be, or ends sooner than it should."""
        if case.length >= self.min_truncation_rows and (
            case.length > self.lengths.longest_complete or case.length % self.min_truncation_rows == 0
        ):
            return True
        if self.lengths.shortest_truncated is not None and case.length >= _NEAR * self.lengths.shortest_truncated:
            return True
        tail = case.tail()
        return tail_falls_short(case.answer.rows.count(tail), self._expect(case.answer, tail).rows)

    def _verdict(self, case: _Assessment, parts: Sequence[VendorResponse | VerifiedRows]) -> Verdict:
        """What parts say of the whole."""
        if case.agrees_with(parts, case.final):
            return Verdict.sparse
        return Verdict.truncated if case.has_fewer_than(parts) else Verdict.restated

    def _accept(self, case: _Assessment, verdict: Verdict, *, split: bool = False) -> VerifiedRows:
        answer = case.answer
        self.density.learn({bucket: answer.rows.count([bucket]) for bucket in case.final})
        chunk = self._chunk(case, verdict, split=split)
        return VerifiedRows(answer.interval, answer.rows, answer.watermark, answer.fetched_at, (chunk,))

    def _chunk(self, case: _Assessment, verdict: Verdict, *, split: bool = False) -> ChunkResult:
        answer = case.answer
        chunk = ChunkResult(
            interval=answer.interval,
            expected=case.expectation.rows,
            source=case.expectation.source,
            got=answer.rows.count(case.final),
            verdict=verdict,
            calls=answer.calls + sum(other.calls for other in case.compared),
            seconds=answer.seconds,
            watermark=answer.watermark,
            length=case.length,
            parts=len(case.parts) if split else 0,
        )
        self.lengths = self.lengths.after([chunk])
        self.on_chunk(chunk)
        return chunk


def _merge(interval: Interval, parts: Sequence[VerifiedRows], above: tuple[ChunkResult, ...]) -> VerifiedRows:
    return VerifiedRows(
        interval,
        Rows.concat(parts[0].rows.schema, (part.rows for part in parts)),
        min(part.watermark for part in parts),
        min(part.fetched_at for part in parts),
        (*above, *(chunk for part in parts for chunk in part.chunks)),
    )

"""Turns vendor answers into rows that are verified complete: doubt, split, ask the parts, compare (G13, G22)."""

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
_NEAR_LIMIT_SHARE = 0.95

Ask = Callable[[Interval], Awaitable[VendorResponse]]
OnChunk = Callable[[ChunkResult], None]


@dataclass(frozen=True)
class _Assessment:
    """One answer that is being judged.

    Attributes:
        answer: the vendor's.
        within: what is to be verified, of which it answers all or a part.
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
        theirs, own = merge_tallies(other.rows.tallies for other in others), self.answer.rows.tallies
        return all(theirs.get(bucket.start) == own.get(bucket.start) for bucket in on)

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
    _probe_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _confirmed_limits: set[tuple[int, Interval]] = field(default_factory=set[tuple[int, Interval]])

    async def verify(self, interval: Interval) -> VerifiedRows:
        """Ask for an interval until what came is verified whole.

        Raises:
            IncompleteAnswer: a single bucket is still cut off.
            UpstreamError, SchemaMismatch: as asking does.
        """
        return await self._verify(interval, interval)

    async def _verify(self, interval: Interval, within: Interval) -> VerifiedRows:
        if self.would_be_truncated(interval):
            parts = split(interval, self.report.step, self.report.zone)
            return _merge(interval, await gather_or_cancel(self._verify(part, within) for part in parts), ())
        return await self._check(await self.ask(interval), within)

    def would_be_truncated(self, interval: Interval) -> bool:
        """Whether an answer as long as this one's should be has been cut before, so that asking would be in vain."""
        if self.lengths.shortest_truncated is None or not split(interval, self.report.step, self.report.zone):
            return False
        return (
            self.density.expect(list_buckets(interval, self.report.step, self.report.zone)).rows
            >= self.lengths.shortest_truncated
        )

    async def _check(self, answer: VendorResponse, within: Interval, *, is_doubted: bool = False) -> VerifiedRows:
        assessment = self._assess(answer, within)
        if not (is_doubted and assessment.parts) and await self._is_trusted(assessment):
            is_unverified = assessment.expectation.source is ExpectationSource.none and not assessment.compared
            return self._accept(assessment, Verdict.unverified if is_unverified else Verdict.complete)
        if not assessment.parts:
            if await self._is_at_limit(assessment):
                raise IncompleteAnswer(self.report.name, self._record(assessment, Verdict.incomplete))
            # One bucket, shorter than any answer that was cut: it was not cut, it is thin.
            return self._accept(assessment, Verdict.sparse)
        answers = await gather_or_cancel(self._fetch_part(assessment, part) for part in assessment.parts)
        # A part with all the rows may have been cut at the same row as the whole, and proves nothing until it is verified.
        is_inconclusive = any(part.rows.num_rows == assessment.length > 0 for part in answers)
        agree = assessment.agrees_with(answers, assessment.final)
        if agree and not is_inconclusive:
            assessment.compared.extend(answers)
            return self._accept(assessment, Verdict.sparse, split=True)
        if agree:
            verified = await gather_or_cancel(
                self._check(part, within, is_doubted=part.rows.num_rows == assessment.length) for part in answers
            )
            chunk = self._record(assessment, self._verdict(assessment, verified), split=True)
        else:
            chunk = self._record(assessment, self._verdict(assessment, answers), split=True)
            verified = await gather_or_cancel(self._check(part, within) for part in answers)
        return _merge(answer.interval, verified, (chunk,))

    async def _is_at_limit(self, assessment: _Assessment) -> bool:
        """Whether a single bucket is as long as an answer that was cut, and no other answer is longer.

        An answer that was broken off once looks like one that met a limit, until something longer is answered.
        """
        async with self._probe_lock:
            limit = self.lengths.shortest_truncated
            if limit is None or assessment.length < limit:
                return False
            if (limit, assessment.within) in self._confirmed_limits:
                return True
            for interval in self._probes(assessment.within):
                probe = await self.ask(interval)
                assessment.compared.append(probe)
                contradicts = interval.contains(assessment.answer.interval) and not assessment.agrees_with(
                    [probe], assessment.final
                )
                if probe.rows.num_rows > limit / _NEAR_LIMIT_SHARE and not contradicts:
                    self.lengths = replace(self.lengths, shortest_truncated=None)
                    return False
            self._confirmed_limits.add((limit, assessment.within))
            return True

    def _probes(self, within: Interval) -> list[Interval]:
        """Nearly all of an interval: what a cut loses first is in the first. What it is split into has been asked."""
        inside = list_buckets(within, self.report.step, self.report.zone)
        if len(inside) <= 2:
            return []
        candidates = [Interval(inside[1].start, within.end), Interval(within.start, inside[-2].end)]
        return [each for each in candidates if each not in split(within, self.report.step, self.report.zone)]

    async def _fetch_part(self, assessment: _Assessment, part: Interval) -> VendorResponse:
        """A part's answer: the tail may have been one."""
        for number, other in enumerate(assessment.compared):
            if other.interval == part:
                return assessment.compared.pop(number)
        return await self.ask(part)

    def _assess(self, answer: VendorResponse, within: Interval) -> _Assessment:
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

    async def _is_trusted(self, assessment: _Assessment) -> bool:
        if assessment.expectation.source is not ExpectationSource.none and self._has_too_few_rows(assessment):
            return False
        if not assessment.parts or not assessment.final or not self._may_lack_tail(assessment):
            return True
        tail = assessment.tail()
        interval = Interval(tail[0].start, tail[-1].end)
        if interval == assessment.answer.interval:
            return False
        # A cut loses the end first, whatever rows come last, and a tail by itself is too short to be cut at that length.
        assessment.compared.append(await self.ask(interval))
        return assessment.agrees_with(assessment.compared, tail)

    def _has_too_few_rows(self, assessment: _Assessment) -> bool:
        """Whether there are fewer rows than there should be, in all or in a part."""
        found = assessment.answer.rows.count(assessment.final)
        if falls_short(found, assessment.expectation.rows):
            return True
        # Exactly as long as an answer that was cut: by chance, or by the same limit.
        if assessment.length == self.lengths.shortest_truncated and (
            assessment.parts or found < assessment.expectation.rows
        ):
            return True
        # A cut-off answer may keep 80 % and lose its tail, so each part is held against its own expectation too.
        for part in assessment.parts:
            inside = [bucket for bucket in assessment.final if part.contains(bucket)]
            if part_falls_short(assessment.answer.rows.count(inside), self._expect(assessment.answer, inside).rows):
                return True
        return False

    def _may_lack_tail(self, assessment: _Assessment) -> bool:
        """Whether an answer with rows enough is as long as a cut one may be, or ends sooner than it should."""
        if assessment.length >= self.min_truncation_rows and (
            assessment.length > self.lengths.longest_complete or assessment.length % self.min_truncation_rows == 0
        ):
            return True
        if (
            self.lengths.shortest_truncated is not None
            and assessment.length >= _NEAR_LIMIT_SHARE * self.lengths.shortest_truncated
        ):
            return True
        tail = assessment.tail()
        return tail_falls_short(assessment.answer.rows.count(tail), self._expect(assessment.answer, tail).rows)

    def _verdict(self, assessment: _Assessment, parts: Sequence[VendorResponse | VerifiedRows]) -> Verdict:
        """What parts say of the whole."""
        if assessment.agrees_with(parts, assessment.final):
            return Verdict.sparse
        return Verdict.truncated if assessment.has_fewer_than(parts) else Verdict.restated

    def _accept(self, assessment: _Assessment, verdict: Verdict, *, split: bool = False) -> VerifiedRows:
        answer = assessment.answer
        self.density.learn({bucket: answer.rows.count([bucket]) for bucket in assessment.final})
        chunk = self._record(assessment, verdict, split=split)
        return VerifiedRows(answer.interval, answer.rows, answer.watermark, answer.fetched_at, (chunk,))

    def _record(self, assessment: _Assessment, verdict: Verdict, *, split: bool = False) -> ChunkResult:
        answer = assessment.answer
        chunk = ChunkResult(
            interval=answer.interval,
            expected=assessment.expectation.rows,
            source=assessment.expectation.source,
            got=answer.rows.count(assessment.final),
            verdict=verdict,
            calls=answer.calls + sum(other.calls for other in assessment.compared),
            seconds=answer.seconds,
            watermark=answer.watermark,
            length=assessment.length,
            parts=len(assessment.parts) if split else 0,
        )
        self.lengths = self.lengths.with_results([chunk])
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

"""Verifies that the vendor's answers are complete: splits doubtful ones, fetches the parts and compares (G13, G22)."""

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
    """Raised if rows are missing and the interval cannot be split further; nothing of the interval is stored."""

    http_status = 502
    problem_type = "incomplete-answer"

    def __init__(self, report: str, chunk: ChunkResult) -> None:
        self.chunk = chunk
        super().__init__(
            f"{report} {chunk.interval}: the vendor returned {chunk.got} rows, but {chunk.expected:.0f} are expected "
            f"(by {chunk.source}), even for a single bucket: narrow the report by filters, or correct expected_groups"
        )


@dataclass(frozen=True)
class VerifiedRows:
    """Rows of an interval that may be stored.

    Attributes:
        interval: The interval; the rows are all of its rows.
        rows: The rows, in the report's schema.
        watermark: The instant up to which they are complete; the earliest of the answers they come from.
        fetched_at: When the first of these answers was requested.
        chunks: The verdicts on all answers that were needed.
        from_history: The part that history held by the time it was to be fetched.
        provisional_from_history: The part of ``from_history`` that is not final.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    chunks: tuple[ChunkResult, ...]
    from_history: IntervalSet = field(default_factory=IntervalSet)
    provisional_from_history: IntervalSet = field(default_factory=IntervalSet)


#: A vendor that limits bytes truncates at slightly different numbers of rows, so lengths this close to a limit count as at the limit.
_NEAR_LIMIT_SHARE = 0.95

Fetch = Callable[[Interval], Awaitable[VendorResponse]]
OnChunk = Callable[[ChunkResult], None]


@dataclass(frozen=True)
class _Assessment:
    """One answer that is being checked.

    Attributes:
        answer: The vendor's answer.
        within: The interval to verify; the answer covers all or a part of it.
        final: Its buckets before its watermark; the others are never checked.
        expectation: The rows expected of the final buckets together.
        parts: The intervals it can be split into; none if it is a single bucket.
        compared: Answers that were fetched only to be compared with it, and are not stored.
    """

    answer: VendorResponse
    within: Interval
    final: list[Interval]
    expectation: Expectation
    parts: list[Interval]
    compared: list[VendorResponse] = field(default_factory=list[VendorResponse])

    @property
    def length(self) -> int:
        """The number of rows of the answer."""
        return self.answer.rows.num_rows

    def tail(self) -> list[Interval]:
        """Return the last final bucket that has rows, and the empty ones after it."""
        filled = [position for position, bucket in enumerate(self.final) if self.answer.rows.count([bucket])]
        return self.final[filled[-1] :] if filled else self.final[-1:]

    def agrees_with(self, others: Sequence[VendorResponse | VerifiedRows], on: Iterable[Interval]) -> bool:
        """Return whether other answers have the same rows in some of its final buckets."""
        theirs, own = merge_tallies(other.rows.tallies for other in others), self.answer.rows.tallies
        return all(theirs.get(bucket.start) == own.get(bucket.start) for bucket in on)

    def has_fewer_than(self, others: Sequence[VendorResponse | VerifiedRows]) -> bool:
        """Return whether other answers have more rows in its final buckets."""
        return self.answer.rows.count(self.final) < sum(other.rows.count(self.final) for other in others)


@dataclass
class CompletenessChecker:
    """Checks the answers of one series, and learns meanwhile how many rows its buckets have and where the vendor truncates.

    Attributes:
        report: The report's declaration.
        density: How many rows comparable buckets had.
        fetch: Sends one query.
        on_chunk: Called with every verdict.
        truncation_stats: What is known about the lengths of its answers.
        min_truncation_rows: Answers shorter than this were not truncated by a limit of the vendor.
    """

    report: Report
    density: RowDensity
    fetch: Fetch
    on_chunk: OnChunk
    truncation_stats: TruncationStats = field(default_factory=TruncationStats)
    min_truncation_rows: int = MIN_TRUNCATION_ROWS
    _probe_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _confirmed_limits: set[tuple[int, Interval]] = field(default_factory=set[tuple[int, Interval]])

    async def verify(self, interval: Interval) -> VerifiedRows:
        """Fetch an interval, in parts if needed, until its rows are verified as complete.

        Raises:
            IncompleteAnswer: A single bucket is still truncated.
            UpstreamError, SchemaMismatch: As in ``fetch``.
        """
        return await self._verify(interval, interval)

    async def _verify(self, interval: Interval, within: Interval) -> VerifiedRows:
        if self.would_be_truncated(interval):
            parts = split(interval, self.report.step, self.report.zone)
            return _merge(interval, await gather_or_cancel(self._verify(part, within) for part in parts), ())
        return await self._check(await self.fetch(interval), within)

    def would_be_truncated(self, interval: Interval) -> bool:
        """Return whether an answer of the expected length has been truncated before, so that this one would be too."""
        if self.truncation_stats.shortest_truncated is None or not split(interval, self.report.step, self.report.zone):
            return False
        return (
            self.density.expect(list_buckets(interval, self.report.step, self.report.zone)).rows
            >= self.truncation_stats.shortest_truncated
        )

    async def _check(self, answer: VendorResponse, within: Interval, *, is_doubted: bool = False) -> VerifiedRows:
        assessment = self._assess(answer, within)
        if not (is_doubted and assessment.parts) and await self._is_trusted(assessment):
            is_unverified = assessment.expectation.source is ExpectationSource.none and not assessment.compared
            return self._accept(assessment, Verdict.unverified if is_unverified else Verdict.complete)
        if not assessment.parts:
            if await self._is_at_limit(assessment):
                raise IncompleteAnswer(self.report.name, self._record(assessment, Verdict.incomplete))
            # A single bucket, shorter than any truncated answer, was not truncated. It is sparse.
            return self._accept(assessment, Verdict.sparse)
        answers = await gather_or_cancel(self._fetch_part(assessment, part) for part in assessment.parts)
        # A part with as many rows as the whole may have been truncated at the same row. It is no evidence until it is verified.
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
        """Return whether a single bucket is as long as a truncated answer, and no other answer is longer.

        An answer that broke off once looks like one that met a limit, until a longer answer is seen.
        """
        async with self._probe_lock:
            limit = self.truncation_stats.shortest_truncated
            if limit is None or assessment.length < limit:
                return False
            if (limit, assessment.within) in self._confirmed_limits:
                return True
            for interval in self._probes(assessment.within):
                probe = await self.fetch(interval)
                assessment.compared.append(probe)
                contradicts = interval.contains(assessment.answer.interval) and not assessment.agrees_with(
                    [probe], assessment.final
                )
                if probe.rows.num_rows > limit / _NEAR_LIMIT_SHARE and not contradicts:
                    self.truncation_stats = replace(self.truncation_stats, shortest_truncated=None)
                    return False
            self._confirmed_limits.add((limit, assessment.within))
            return True

    def _probes(self, within: Interval) -> list[Interval]:
        """Return intervals of nearly the same length, without the parts that have been fetched already.

        The first interval ends like the whole, where truncation loses rows first.
        """
        inside = list_buckets(within, self.report.step, self.report.zone)
        if len(inside) <= 2:
            return []
        candidates = [Interval(inside[1].start, within.end), Interval(within.start, inside[-2].end)]
        return [each for each in candidates if each not in split(within, self.report.step, self.report.zone)]

    async def _fetch_part(self, assessment: _Assessment, part: Interval) -> VendorResponse:
        """Return the answer for a part, which may have been fetched before as the tail."""
        for number, other in enumerate(assessment.compared):
            if other.interval == part:
                return assessment.compared.pop(number)
        return await self.fetch(part)

    def _assess(self, answer: VendorResponse, within: Interval) -> _Assessment:
        report = self.report
        final = final_buckets(list_buckets(answer.interval, report.step, report.zone), answer.watermark)
        parts = split(answer.interval, report.step, report.zone)
        return _Assessment(answer, within, final, self._expect(answer, final), parts)

    def _expect(self, answer: VendorResponse, final: list[Interval]) -> Expectation:
        if self.report.rows is not None:
            # The number of conversations cannot be known in advance. The watermark and the paging are the evidence.
            return Expectation(0.0, ExpectationSource.none)
        if answer.rows.num_rows > self.truncation_stats.longest_complete:
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
        # Truncation loses the last rows first, and the tail alone is too short to be truncated at that length.
        assessment.compared.append(await self.fetch(interval))
        return assessment.agrees_with(assessment.compared, tail)

    def _has_too_few_rows(self, assessment: _Assessment) -> bool:
        """Return whether there are fewer rows than expected, in total or in a part."""
        found = assessment.answer.rows.count(assessment.final)
        if falls_short(found, assessment.expectation.rows):
            return True
        # It is exactly as long as a truncated answer, by chance or by the same limit.
        if assessment.length == self.truncation_stats.shortest_truncated and (
            assessment.parts or found < assessment.expectation.rows
        ):
            return True
        # A truncated answer may keep 80 % of its rows and lose its tail, so each part is checked too.
        for part in assessment.parts:
            inside = [bucket for bucket in assessment.final if part.contains(bucket)]
            if part_falls_short(assessment.answer.rows.count(inside), self._expect(assessment.answer, inside).rows):
                return True
        return False

    def _may_lack_tail(self, assessment: _Assessment) -> bool:
        """Return whether an answer with enough rows is as long as a truncated one may be, or ends earlier than it should."""
        if assessment.length >= self.min_truncation_rows and (
            assessment.length > self.truncation_stats.longest_complete
            or assessment.length % self.min_truncation_rows == 0
        ):
            return True
        if (
            self.truncation_stats.shortest_truncated is not None
            and assessment.length >= _NEAR_LIMIT_SHARE * self.truncation_stats.shortest_truncated
        ):
            return True
        tail = assessment.tail()
        return tail_falls_short(assessment.answer.rows.count(tail), self._expect(assessment.answer, tail).rows)

    def _verdict(self, assessment: _Assessment, parts: Sequence[VendorResponse | VerifiedRows]) -> Verdict:
        """Return the verdict on an answer, given its parts."""
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
        self.truncation_stats = self.truncation_stats.with_results([chunk])
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

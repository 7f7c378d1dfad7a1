"""Verify chunks: send the queries that the rules ask for, until an interval is accepted or rejected (G13, G22).

The rules are in `cache_pipeline.query.verification`, which is pure. This module sends, keeps the rows of the answers, and
passes on what was learned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from cache_pipeline.aio import gather_or_cancel
from cache_pipeline.errors import CachePipelineError, UpstreamError
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, TruncationStats, Verdict, final_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.tallies import RowTally
from cache_pipeline.query.verification import (
    Accept,
    AnsweredQuery,
    Evidence,
    Knowledge,
    Reject,
    SecondLook,
    next_step,
)
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime

Ask = Callable[[Interval], Awaitable[VendorResponse]]


class IncompleteAnswer(CachePipelineError):
    """Rows are missing and no smaller query can be sent. Nothing of the interval is stored."""

    http_status = 502
    problem_type = "incomplete-answer"

    def __init__(self, report: str, chunk: ChunkResult) -> None:
        self.chunk = chunk
        super().__init__(
            f"{report} {chunk.interval}: the vendor returned {chunk.got} rows, but {chunk.expected:.0f} are expected "
            f"(by {chunk.source}), even for a single bucket",
            remedy="narrow the report by filters, or correct expected_groups",
        )


@dataclass(frozen=True)
class VerifiedRows:
    """Rows of an interval that may be stored.

    Attributes:
        interval: The interval whose rows these are, all of them.
        rows: The rows, in the report's schema.
        watermark: The instant up to which they are complete; the earliest of the answers they come from.
        fetched_at: When the first of those answers was asked for.
        chunks: The verdict on each answer on the way.
        from_history: The part that history held by the time it was to be fetched.
        provisional_from_history: The part of `from_history` that is not final.
        second_looks: The intervals that stay provisional until a later query agrees, by reason.
        fetch_times: When each part that the vendor was asked for was asked for.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    chunks: tuple[ChunkResult, ...]
    from_history: IntervalSet = field(default_factory=IntervalSet)
    provisional_from_history: IntervalSet = field(default_factory=IntervalSet)
    second_looks: Mapping[SecondLook, IntervalSet] = field(default_factory=dict[SecondLook, IntervalSet])
    fetch_times: tuple[FetchTime, ...] = ()


@dataclass(frozen=True)
class EarlierRows:
    """What history holds of an interval from a query that is old enough for a second look."""

    intervals: IntervalSet = field(default_factory=IntervalSet)
    tallies: Mapping[datetime, RowTally] = field(default_factory=dict[datetime, RowTally])


@dataclass
class Verifier:
    """Verifies chunks of one series, and learns what its buckets hold and where the vendor truncates.

    Attributes:
        knowledge: What is known of the series; it grows with every accepted answer.
        on_result: Called with every verdict as soon as it is known.
    """

    knowledge: Knowledge
    on_result: Callable[[ChunkResult], None]

    @property
    def stats(self) -> TruncationStats:
        """The lengths at which answers were complete, truncated or refused."""
        return self.knowledge.stats

    async def verify(self, interval: Interval, ask: Ask, earlier: EarlierRows) -> VerifiedRows:
        """Send queries until the rows of an interval are verified.

        Args:
            interval: The interval.
            ask: Sends one query. It is called at most once for each interval.
            earlier: What history holds from an earlier look.

        Raises:
            IncompleteAnswer: A single bucket is still truncated.
            UpstreamError: The vendor refused, or cannot be reached.
            SchemaMismatch: An answer does not match the declaration.
        """
        evidence = Evidence(interval, earlier=earlier.intervals, earlier_tallies=earlier.tallies)
        responses: dict[Interval, VendorResponse] = {}
        reported: set[tuple[Interval, str]] = set()
        refusals: dict[Interval, UpstreamError] = {}
        while True:
            step = next_step(evidence, self.knowledge)
            self._report(step.results, reported)
            if isinstance(step, Accept):
                return self._accept(evidence, step, responses)
            if isinstance(step, Reject):
                if step.result is None:
                    raise refusals[step.interval]
                raise IncompleteAnswer(self.knowledge.report.name, step.result)
            outcomes = await gather_or_cancel(self._try(each, ask) for each in step.intervals)
            for each, outcome in zip(step.intervals, outcomes, strict=True):
                if isinstance(outcome, UpstreamError):
                    refusals[each] = outcome
                    evidence = evidence.with_refusal(each)
                else:
                    responses[each] = outcome
                    evidence = evidence.with_answer(_without_rows(outcome))

    async def _try(self, interval: Interval, ask: Ask) -> VendorResponse | UpstreamError:
        """Send one query; a refusal for its size is an outcome, any other error is raised."""
        try:
            return await ask(interval)
        except UpstreamError as error:
            if not error.is_too_large:
                raise
            self._learn(ChunkResult(interval, 0.0, ExpectationSource.none, 0, Verdict.refused, 1, 0.0, interval.start))
            return error

    def _report(self, results: tuple[ChunkResult, ...], reported: set[tuple[Interval, str]]) -> None:
        fresh = [each for each in results if (each.interval, each.verdict) not in reported]
        reported.update((each.interval, each.verdict) for each in fresh)
        for each in fresh:
            self._learn(each)

    def _learn(self, result: ChunkResult) -> None:
        self.knowledge = replace(self.knowledge, stats=self.stats.with_results([result]))
        self.on_result(result)

    def _accept(self, evidence: Evidence, step: Accept, responses: Mapping[Interval, VendorResponse]) -> VerifiedRows:
        parts = [responses[part.interval] for part in step.parts]
        second_looks: dict[SecondLook, IntervalSet] = {}
        for part, response in zip(step.parts, parts, strict=True):
            final = final_buckets(self.knowledge.buckets(part.interval), response.watermark)
            if part.second_look is None:
                # Only what is final teaches: a moment of empty answers must not lower what is expected.
                self.knowledge.density.learn({bucket: response.rows.count([bucket]) for bucket in final})
            else:
                known = second_looks.get(part.second_look, IntervalSet())
                second_looks[part.second_look] = known | IntervalSet(final)
        return VerifiedRows(
            evidence.interval,
            Rows.concat(parts[0].rows.schema, (part.rows for part in parts)),
            min(part.watermark for part in parts),
            min(part.fetched_at for part in parts),
            step.results,
            second_looks=second_looks,
            fetch_times=tuple(FetchTime(IntervalSet([part.interval]), part.fetched_at) for part in parts),
        )


def _without_rows(response: VendorResponse) -> AnsweredQuery:
    return AnsweredQuery(
        response.interval,
        response.rows.tallies,
        response.watermark,
        response.rows.num_rows,
        response.calls,
        response.seconds,
    )


def merge_second_looks(verified: Iterable[VerifiedRows], within: IntervalSet) -> dict[SecondLook, IntervalSet]:
    """Return the intervals that wait for a second look, by reason."""
    merged: dict[SecondLook, IntervalSet] = {}
    for rows in verified:
        for reason, intervals in rows.second_looks.items():
            if part := intervals & within:
                merged[reason] = merged.get(reason, IntervalSet()) | part
    return merged

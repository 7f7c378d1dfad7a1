"""The states of one chunk on its way from the vendor to history.

```
Missing ──► Locked ──► Submitted ◄──► Received ──► Verified ──► Stored
   ▲          │ │                        │
   │          │ └──► Split, Stored       └──► Failed
   └─ RetryLater
```

Everything here is pure: a state says what comes next, given what is known, and `chunk_fetcher` does what it says. No state is
entered again without less to do: a verification asks for no interval twice, the parts of a `Split` are smaller than the chunk
or are jobs that the vendor already has, and `RetryLater` waits for another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.errors import CachePipelineError, UpstreamError
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.fetch.verified_rows import VerifiedRows
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict, final_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.tallies import RowTally
from cache_pipeline.query.verification import (
    Accept,
    Evidence,
    Knowledge,
    Query,
    Reject,
    SecondLook,
    next_step,
)
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.ledger import OpenJob


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
class Missing:
    """History lacks some of the chunk.

    Attributes:
        chunk: The chunk.
        is_part: Whether it comes from a split. Then only jobs within it are resumed, so that every split has less left to do.
    """

    chunk: Interval
    is_part: bool = False


@dataclass(frozen=True)
class RetryLater:
    """Another process is fetching some of the chunk. This one holds the lock and looks again when that ends."""

    chunk: Interval


@dataclass(frozen=True)
class Stored:
    """The rows are in history, or ready to be stored by the session's caller."""

    rows: VerifiedRows


@dataclass(frozen=True)
class Split:
    """The chunk is fetched as several others.

    Attributes:
        chunks: What is fetched instead: jobs that the vendor already has, and what they leave of the chunk.
        stored: The part of the chunk that others have stored meanwhile.
    """

    chunks: tuple[Interval, ...]
    stored: IntervalSet


@dataclass(frozen=True)
class Failed:
    """Nothing of the chunk may be stored."""

    chunk: Interval
    error: Exception


@dataclass(frozen=True)
class EarlierRows:
    """What history holds of an interval from a query that is old enough for a second look."""

    intervals: IntervalSet = field(default_factory=IntervalSet)
    tallies: Mapping[datetime, RowTally] = field(default_factory=dict[datetime, RowTally])


@dataclass(frozen=True)
class Locked:
    """This caller alone may fetch the chunk.

    Attributes:
        chunk: The chunk.
        missing: The part that must be fetched; others may have stored the rest since the chunk was planned.
        open_jobs: The vendor's jobs near the chunk that are not stored yet, the longest first.
        earlier: What history holds of the chunk from an earlier look.
        is_part: As in `Missing`.
    """

    chunk: Interval
    missing: IntervalSet
    open_jobs: tuple[OpenJob, ...] = ()
    earlier: EarlierRows = field(default_factory=EarlierRows)
    is_part: bool = False

    def choose(self, knowledge: Knowledge, is_fresh: Callable[[OpenJob], bool]) -> Submitted | Split | RetryLater:
        """Decide how to fetch what is missing: by jobs that the vendor already has, else by new queries.

        Args:
            knowledge: What is known of the series. A job whose answer would be truncated is not read, because all its parts
                would be fetched, even stored ones.
            is_fresh: Whether the answer to a job would still be fresh enough.
        """
        chunks: list[Interval] = []
        missing = self.missing
        for job in self.open_jobs:
            if not IntervalSet([job.interval]) & missing:
                continue
            if job.is_alive:
                return RetryLater(self.chunk)
            is_resumable = self.chunk.contains(job.interval) or not self.is_part
            if is_resumable and is_fresh(job) and not knowledge.is_too_large(job.interval):
                chunks.append(job.interval)
                missing -= IntervalSet([job.interval])
        chunks += missing
        if chunks != [self.chunk]:
            return Split(tuple(chunks), IntervalSet([self.chunk]) - self.missing)
        evidence = Evidence(self.chunk, earlier=self.earlier.intervals, earlier_tallies=self.earlier.tallies)
        step = next_step(evidence, knowledge)
        return Submitted(self.chunk, step.intervals if isinstance(step, Query) else (self.chunk,), evidence)


@dataclass(frozen=True)
class Submitted:
    """Queries are to be sent, or the vendor is working on them.

    Attributes:
        chunk: The chunk.
        queries: Their intervals; none of them was answered before.
        evidence: The answers so far, without their rows.
        responses: The answers, by interval.
        refusals: The refusals for size and the failures of jobs, by interval.
    """

    chunk: Interval
    queries: tuple[Interval, ...]
    evidence: Evidence
    responses: Mapping[Interval, VendorResponse] = field(default_factory=dict[Interval, VendorResponse])
    refusals: Mapping[Interval, UpstreamError] = field(default_factory=dict[Interval, UpstreamError])

    def receive(self, outcomes: Iterable[VendorResponse | UpstreamError]) -> Received:
        """Add the outcomes of the queries, in their order: an answer, a refusal for its size, or a failed job."""
        evidence, responses, refusals = self.evidence, dict(self.responses), dict(self.refusals)
        for interval, outcome in zip(self.queries, outcomes, strict=True):
            if isinstance(outcome, VendorResponse):
                responses[interval] = outcome
                evidence = evidence.with_answer(outcome.without_rows())
            else:
                refusals[interval] = outcome
                evidence = evidence.with_refusal(interval) if outcome.is_too_large else evidence.with_failure(interval)
        return Received(self.chunk, evidence, responses, refusals)


@dataclass(frozen=True)
class Received:
    """Every query so far is answered or refused; the attributes are those of `Submitted`."""

    chunk: Interval
    evidence: Evidence
    responses: Mapping[Interval, VendorResponse]
    refusals: Mapping[Interval, UpstreamError]

    def judge(self, knowledge: Knowledge) -> tuple[Submitted | Verified | Failed, tuple[ChunkResult, ...]]:
        """Decide by the completeness rules; also return the verdicts that the evidence allows so far."""
        step = next_step(self.evidence, knowledge)
        if isinstance(step, Accept):
            return self._accept(step, knowledge), step.results
        if isinstance(step, Reject):
            error = (
                self.refusals[step.interval]
                if step.result is None
                else IncompleteAnswer(knowledge.report.name, step.result)
            )
            return Failed(self.chunk, error), step.results
        return Submitted(self.chunk, step.intervals, self.evidence, self.responses, self.refusals), step.results

    def _accept(self, step: Accept, knowledge: Knowledge) -> Verified:
        parts = [self.responses[part.interval] for part in step.parts]
        second_looks: dict[SecondLook, IntervalSet] = {}
        learned: dict[Interval, int] = {}
        for part, response in zip(step.parts, parts, strict=True):
            final = final_buckets(knowledge.buckets(part.interval), response.watermark)
            if part.second_look is None:
                # Only what is final teaches: a moment of empty answers must not lower what is expected.
                learned |= {bucket: response.count_sent(bucket) for bucket in final}
            else:
                known = second_looks.get(part.second_look, IntervalSet())
                second_looks[part.second_look] = known | IntervalSet(final)
        rows = VerifiedRows(
            self.chunk,
            Rows.concat(parts[0].rows.schema, (part.rows for part in parts)),
            min(part.watermark for part in parts),
            min(part.fetched_at for part in parts),
            step.results,
            second_looks=second_looks,
            fetch_times=tuple(FetchTime(IntervalSet([part.interval]), part.fetched_at) for part in parts),
        )
        return Verified(self.chunk, rows, learned)


@dataclass(frozen=True)
class Verified:
    """The rows are complete, or as complete as can be proven now.

    Attributes:
        chunk: The chunk.
        rows: Its rows.
        row_counts: The number of rows that the vendor sent of each final bucket, from which the session learns what to expect of others.
    """

    chunk: Interval
    rows: VerifiedRows
    row_counts: Mapping[Interval, int]


ChunkState = Missing | Locked | RetryLater | Submitted | Received | Verified | Stored | Split | Failed
#: The states in which the work on a chunk ends.
ChunkOutcome = Stored | Split | Failed


def refusal_result(interval: Interval) -> ChunkResult:
    """Return the verdict on a query that the vendor refused as too large."""
    return ChunkResult(interval, 0.0, ExpectationSource.none, 0, Verdict.refused, 1, 0.0, interval.start)

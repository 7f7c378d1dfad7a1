"""Decide which query to send next, so that the rows of one interval are verified (G13, G22).

Everything here is pure: `next_step` reads a table of evidence (the queries that were answered or refused so far) and says
what to ask next, or what to accept. It only ever asks for an interval that is not in the table, and there are finitely many,
so a verification ends whatever the vendor answers.

How an answer is verified:

1. It is compared with the rows that its buckets should have. Too few, in all or in a part, make it suspect.
2. An answer with enough rows that may still have met a limit is compared with its two halves. A cut in time order loses the
   end, and a cut in group order loses the last groups; either way one of the halves says more. An answer whose end has too
   few rows is compared with that end.
3. A suspect answer is split. If the parts say the same, it was sparse. If they say more, it was truncated, and the parts are
   verified in its place.
4. A query that the vendor refuses for its size is replaced by its parts. A failed job may have been too large as well, so it
   is replaced by its halves. While nothing is answered, only one half is followed down to a single bucket, so that a vendor
   that fails every job is not asked for all of them.
5. Answers of one moment can share a cause, such as a vendor that answers nothing for a second. So an answer that has far
   fewer rows than history expects is final only when a second look agrees with it later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

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
from cache_pipeline.query.tallies import RowTally, merge_tallies

#: A vendor that limits bytes does not always cut at the same number of rows.
_NEARLY = 0.95
#: A day has that much less when clocks go forward, by two hours at most.
_CLOCK_CHANGE = timedelta(hours=2)


class SecondLook(StrEnum):
    """Why accepted rows stay provisional until a later query agrees with them.

    Attributes:
        unverified: Nothing is known that the number of rows could be compared with.
        unexpected: There are far fewer rows than history expects, or none at all.
    """

    unverified = "unverified"
    unexpected = "unexpected"


@dataclass(frozen=True)
class AnsweredQuery:
    """One answer of the vendor, without its rows.

    Attributes:
        interval: The interval of the query.
        tallies: Count and digest of the rows of each bucket, by its start.
        watermark: The instant up to which the vendor says its data is complete.
        length: The number of rows as the vendor counts them.
        calls: The number of requests it took.
        seconds: The time from submit to the last page.
        sent: The number of rows as the vendor sent them in each bucket, by its start, if it split the groups further than
            asked; empty if it did not.
        size: Its length in bytes; 0 if it is not known.
    """

    interval: Interval
    tallies: Mapping[datetime, RowTally]
    watermark: datetime
    length: int
    calls: int = 0
    seconds: float = 0.0
    sent: Mapping[datetime, int] = field(default_factory=dict[datetime, int])
    size: int = 0

    def count(self, buckets: Iterable[Interval]) -> int:
        """Return the number of rows that the vendor sent of some buckets."""
        if self.sent:
            return sum(self.sent.get(bucket.start, 0) for bucket in buckets)
        return self.count_groups(buckets)

    def count_groups(self, buckets: Iterable[Interval]) -> int:
        """Return the number of rows of some buckets after folding."""
        return sum(self.tallies[bucket.start].rows for bucket in buckets if bucket.start in self.tallies)


@dataclass(frozen=True)
class Evidence:
    """What is known of one interval that is being verified.

    Attributes:
        interval: The interval to verify.
        answers: The answered queries, by interval.
        refused: Intervals that the vendor refused as too large.
        failed: Intervals whose job failed without a word about its size.
        earlier: The part of the interval that history holds from a query that is old enough for a second look.
        earlier_tallies: The tallies of those rows, by bucket start.
    """

    interval: Interval
    answers: Mapping[Interval, AnsweredQuery] = field(default_factory=dict[Interval, AnsweredQuery])
    refused: frozenset[Interval] = frozenset()
    failed: frozenset[Interval] = frozenset()
    earlier: IntervalSet = field(default_factory=IntervalSet)
    earlier_tallies: Mapping[datetime, RowTally] = field(default_factory=dict[datetime, RowTally])

    def with_answer(self, answer: AnsweredQuery) -> Evidence:
        """Return the evidence with one more answer."""
        return replace(self, answers={**self.answers, answer.interval: answer})

    def with_refusal(self, interval: Interval) -> Evidence:
        """Return the evidence with one more interval that is too large for the vendor."""
        return replace(self, refused=self.refused | {interval})

    def with_failure(self, interval: Interval) -> Evidence:
        """Return the evidence with one more interval whose job failed."""
        return replace(self, failed=self.failed | {interval})

    def has(self, interval: Interval) -> bool:
        """Return whether the vendor has answered, refused or failed this interval."""
        return interval in self.answers or interval in self.refused or interval in self.failed


@dataclass(frozen=True)
class Knowledge:
    """What is known of a series beyond the interval at hand.

    Attributes:
        report: The declaration.
        density: The number of groups that comparable buckets had.
        stats: The lengths at which answers were complete, truncated or refused.
        shortest_limit: Answers shorter than this are never cut by a limit of the vendor.
        is_failing: Whether every job failed lately, even one of a single bucket, so that no size is the cause.
        shortest_query: A shorter query brings the same answer, so that nothing is split into such parts.
    """

    report: Report
    density: RowDensity
    stats: TruncationStats = field(default_factory=TruncationStats)
    shortest_limit: int = MIN_TRUNCATION_ROWS
    is_failing: bool = False
    shortest_query: timedelta = timedelta(0)

    def buckets(self, interval: Interval) -> list[Interval]:
        """Return the buckets of an interval."""
        return list_buckets(interval, self.report.step, self.report.zone)

    def parts(self, interval: Interval) -> list[Interval]:
        """Return the parts that an interval splits into; none if it is one bucket, or as short as a query may be."""
        parts = split(interval, self.report.step, self.report.zone)
        return [] if any(map(self.is_too_short, parts)) else parts

    def is_too_short(self, interval: Interval) -> bool:
        """Return whether a query for an interval brings the same answer as a longer one."""
        return interval.end - interval.start < self.shortest_query - _CLOCK_CHANGE

    def halves(self, interval: Interval) -> list[Interval]:
        """Return the two halves of an interval, divided where its parts are; none if it is one bucket."""
        parts = self.parts(interval)
        if not parts:
            return []
        middle = parts[len(parts) // 2].start
        return [Interval(interval.start, middle), Interval(middle, interval.end)]

    def is_too_large(self, interval: Interval) -> bool:
        """Return whether a query like this one has been truncated or refused before."""
        if self.stats.shortest_refused is not None and interval.end - interval.start >= self.stats.shortest_refused:
            return True
        limit = self.stats.shortest_truncated
        return limit is not None and self.density.expect(self.buckets(interval)).rows >= limit


@dataclass(frozen=True)
class VerifiedPart:
    """An answer whose rows are accepted.

    Attributes:
        interval: The interval of the answered query.
        second_look: Why its final buckets stay provisional for now; None if they are final.
    """

    interval: Interval
    second_look: SecondLook | None = None


@dataclass(frozen=True)
class Query:
    """Send these queries; none of them was answered before."""

    intervals: tuple[Interval, ...]
    results: tuple[ChunkResult, ...] = ()


@dataclass(frozen=True)
class Probe(Query):
    """Send these queries to compare an answer with them; their rows are not kept."""


@dataclass(frozen=True)
class AskParts(Query):
    """Send these queries in place of one that is suspect or too large."""


@dataclass(frozen=True)
class Accept:
    """The interval is verified: keep the rows of these answers, in this order."""

    parts: tuple[VerifiedPart, ...]
    results: tuple[ChunkResult, ...]


@dataclass(frozen=True)
class Reject:
    """Rows are missing and no smaller query can help; `result` is None if the vendor refuses or fails this very query."""

    interval: Interval
    result: ChunkResult | None
    results: tuple[ChunkResult, ...] = ()


VerificationStep = Query | Probe | AskParts | Accept | Reject


def next_step(evidence: Evidence, knowledge: Knowledge) -> VerificationStep:
    """Return what to do next to verify an interval.

    Every `Query` names only intervals that the evidence does not hold yet. The `results` of each step are the verdicts that
    the evidence allows so far, so that a caller can report those it has not reported yet.
    """
    verification = _Verification(evidence, knowledge)
    outcome = verification.verify(evidence.interval)
    if isinstance(outcome.step, Query):
        return replace(outcome.step, results=tuple(verification.results.values()))
    verification.charge_the_rest()
    results = tuple(verification.results.values())
    if outcome.step is not None:
        return replace(outcome.step, results=results)
    return Accept(verification.with_second_looks(outcome.parts), results)


@dataclass(frozen=True)
class _Outcome:
    """What is known of one node of the tree: a step to take first, or the parts that make it up."""

    step: Query | Reject | None = None
    parts: tuple[VerifiedPart, ...] = ()


@dataclass
class _Verification:
    """One evaluation of the evidence, from the whole interval down to its parts."""

    evidence: Evidence
    knowledge: Knowledge
    results: dict[Interval, ChunkResult] = field(default_factory=dict[Interval, ChunkResult])
    charged: set[Interval] = field(default_factory=set[Interval])

    def verify(self, interval: Interval, *, is_doubted: bool = False) -> _Outcome:
        """Verify one interval of the tree, from its answer or from its parts'."""
        answer = self.evidence.answers.get(interval)
        parts = self.knowledge.parts(interval)
        if answer is None:
            if interval in self.evidence.failed:
                return self._verify_failed(interval)
            if interval not in self.evidence.refused and not (parts and self.knowledge.is_too_large(interval)):
                return _Outcome(Query((interval,)))
            return self._verify_parts(parts) if parts else _Outcome(Reject(interval, None))
        node = _Node(self, answer, parts)
        if node.was_seen_before:
            # An earlier look was verified by itself. That this one agrees is the proof that its parts would repeat.
            return self._accept(node, Verdict.sparse if node.is_short else node.plain_verdict)
        if node.is_plainly_empty:
            return self._accept(node, Verdict.sparse)
        if not (is_doubted and parts):
            if (probes := node.missing_probes) and not node.is_short:
                return _Outcome(Probe(probes))
            if not node.is_suspect:
                return self._accept(node, node.plain_verdict)
        return self._verify_suspect(node) if parts else self._verify_bucket(node)

    def _verify_failed(self, interval: Interval) -> _Outcome:
        """Verify the halves of a failed query."""
        halves = self.knowledge.halves(interval)
        if not halves or self.knowledge.is_failing:
            return _Outcome(Reject(interval, None))
        if all(half in self.evidence.failed for half in halves):
            first = self.verify(halves[0])
            if first.step is not None:
                return first
        outcome = self._verify_parts(halves)
        if outcome.step is None and all(half in self.evidence.answers for half in halves):
            none = ExpectationSource.none
            self.results[interval] = ChunkResult(
                interval, 0.0, none, 0, Verdict.failed, 1, 0.0, interval.start, parts=len(halves)
            )
        return outcome

    def _verify_suspect(self, node: _Node) -> _Outcome:
        """Compare an answer with its parts, and verify the parts if they differ."""
        wanted = [part for part in node.parts if not self.evidence.has(part) and not self.knowledge.is_too_large(part)]
        if wanted:
            return _Outcome(AskParts(tuple(wanted)))
        answers = [self.evidence.answers[part] for part in node.parts if part in self.evidence.answers]
        if len(answers) < len(node.parts):
            outcome = self._verify_parts(node.parts)
            if outcome.step is None:
                self._conclude(node, [self.evidence.answers[part.interval] for part in outcome.parts])
            return outcome
        is_agreed = node.agrees_with(answers, node.final)
        # A part with all the rows may have been cut at the same row as the whole, and proves nothing by itself.
        copies = [part for part in answers if part.length == node.answer.length and node.may_be_at_a_limit]
        if is_agreed and not copies:
            return self._accept(node, Verdict.sparse, parts=len(node.parts), compared=node.parts)
        if not is_agreed:
            self._conclude(node, answers)
        outcome = self._verify_parts(node.parts, doubted=[part.interval for part in copies] if is_agreed else ())
        if is_agreed and outcome.step is None:
            self._conclude(node, [self.evidence.answers[part.interval] for part in outcome.parts])
        return outcome

    def _verify_parts(self, parts: Sequence[Interval], doubted: Iterable[Interval] = ()) -> _Outcome:
        """Verify parts side by side: what they ask for is asked together."""
        suspects = set(doubted)
        outcomes = [self.verify(part, is_doubted=part in suspects) for part in parts]
        steps = [outcome.step for outcome in outcomes if outcome.step is not None]
        rejected = next((step for step in steps if isinstance(step, Reject)), None)
        if rejected is not None:
            return _Outcome(rejected)
        asked = tuple(dict.fromkeys(each for step in steps if isinstance(step, Query) for each in step.intervals))
        if asked:
            return _Outcome(AskParts(asked))
        return _Outcome(parts=tuple(part for outcome in outcomes for part in outcome.parts))

    def _verify_bucket(self, node: _Node) -> _Outcome:
        """Decide on a suspect answer of one bucket, which cannot be split."""
        limit = self.knowledge.stats.shortest_truncated
        if limit is None or node.answer.length < limit:
            # Shorter than every answer that was cut: it was not cut either.
            return self._accept(node, Verdict.sparse)
        for interval in self._limit_probes():
            probe = self.evidence.answers.get(interval)
            if not self.evidence.has(interval):
                return _Outcome(Probe((interval,)))
            if probe is not None and self._refutes_limit(probe, node, limit):
                return self._accept(node, Verdict.sparse, compared=self._limit_probes())
        result = self._result(node, Verdict.incomplete, compared=self._limit_probes())
        return _Outcome(Reject(node.answer.interval, result))

    def _limit_probes(self) -> list[Interval]:
        """Return nearly the whole interval, twice.

        An answer that broke off once looks like one that met a limit, until a longer answer shows that there is none.
        """
        inside = self.knowledge.buckets(self.evidence.interval)
        if len(inside) <= 2:
            return []
        within = self.evidence.interval
        nearly = [Interval(inside[1].start, within.end), Interval(within.start, inside[-2].end)]
        parts = self.knowledge.parts(within)
        return [each for each in nearly if each not in parts and not self.knowledge.is_too_short(each)]

    def _refutes_limit(self, probe: AnsweredQuery, node: _Node, limit: int) -> bool:
        contradicts = probe.interval.contains(node.answer.interval) and not node.agrees_with([probe], node.final)
        return probe.length > limit / _NEARLY and not contradicts

    def _conclude(self, node: _Node, others: Sequence[AnsweredQuery]) -> None:
        """Record what the parts say of the whole."""
        if node.agrees_with(others, node.final):
            verdict = Verdict.sparse
        else:
            more = sum(other.count(node.final) for other in others) > node.found
            verdict = Verdict.truncated if more else Verdict.restated
        self._result(
            node, verdict, parts=len(node.parts), compared=(each for each in node.probes if each not in node.parts)
        )

    def _accept(self, node: _Node, verdict: Verdict, *, parts: int = 0, compared: Iterable[Interval] = ()) -> _Outcome:
        self._result(node, verdict, parts=parts, compared=[*node.probes, *compared])
        return _Outcome(parts=(VerifiedPart(node.answer.interval, node.second_look),))

    def _result(
        self, node: _Node, verdict: Verdict, *, parts: int = 0, compared: Iterable[Interval] = ()
    ) -> ChunkResult:
        answer = node.answer
        # Every answer's requests are counted once: with its own result, or with the first answer compared with it.
        answered = [each for each in dict.fromkeys([answer.interval, *compared]) if each in self.evidence.answers]
        calls = sum(self.evidence.answers[each].calls for each in answered if each not in self.charged)
        self.charged.update(answered)
        result = ChunkResult(
            interval=answer.interval,
            expected=node.expectation.rows,
            source=node.expectation.source,
            got=node.found,
            verdict=verdict,
            calls=calls,
            seconds=answer.seconds,
            watermark=answer.watermark,
            length=answer.length,
            size=answer.size,
            parts=parts,
            folded=node.found - answer.count_groups(node.final),
            sent={bucket.start: answer.count([bucket]) for bucket in node.final} if answer.sent else {},
        )
        self.results[answer.interval] = result
        self.knowledge = replace(self.knowledge, stats=self.knowledge.stats.with_results([result]))
        return result

    def charge_the_rest(self) -> None:
        """Count the requests of answers that turned out to be compared with nothing with the last result."""
        rest = sum(answer.calls for each, answer in self.evidence.answers.items() if each not in self.charged)
        if rest and self.results:
            interval, last = self.results.popitem()
            self.results[interval] = replace(last, calls=last.calls + rest)

    def with_second_looks(self, parts: tuple[VerifiedPart, ...]) -> tuple[VerifiedPart, ...]:
        """Mark every part if the interval as a whole has far fewer rows than history expects."""
        if len(parts) < 2:
            return parts
        answers = [self.evidence.answers[part.interval] for part in parts]
        whole = AnsweredQuery(
            self.evidence.interval,
            merge_tallies(answer.tallies for answer in answers),
            min(answer.watermark for answer in answers),
            sum(answer.length for answer in answers),
            sent=_merge_sent(answers),
        )
        reason = _Node(self, whole, []).second_look
        return tuple(replace(part, second_look=part.second_look or reason) for part in parts)


def _merge_sent(answers: Sequence[AnsweredQuery]) -> dict[datetime, int]:
    """Add up the rows that the vendor sent by bucket start; empty if it split no groups."""
    if not any(answer.sent for answer in answers):
        return {}
    total: Counter[datetime] = Counter()
    for answer in answers:
        total.update(answer.sent or {start: tally.rows for start, tally in answer.tallies.items()})
    return dict(total)


@dataclass(frozen=True)
class _Node:
    """One answer and what it should be compared with."""

    verification: _Verification
    answer: AnsweredQuery
    parts: list[Interval]

    @property
    def knowledge(self) -> Knowledge:
        return self.verification.knowledge

    @cached_property
    def final(self) -> list[Interval]:
        """The buckets before the watermark; the others are never checked."""
        return final_buckets(self.knowledge.buckets(self.answer.interval), self.answer.watermark)

    @cached_property
    def found(self) -> int:
        """Rows of the final buckets."""
        return self.answer.count(self.final)

    def expect(self, buckets: list[Interval]) -> Expectation:
        """Return the rows that some of its buckets should have."""
        if self.knowledge.report.rows is not None:
            # The number of single rows cannot be known beforehand: the watermark and the paging are the proof.
            return Expectation(0.0, ExpectationSource.none)
        if self.answer.length > self.knowledge.stats.longest_complete or self._is_largest():
            return self.knowledge.density.expect_as_declared(buckets)
        return self.knowledge.density.expect(buckets)

    @cached_property
    def expectation(self) -> Expectation:
        """Rows expected of its final buckets together."""
        return self.expect(self.final)

    @property
    def is_unverifiable(self) -> bool:
        """Whether nothing is known to compare its rows with, although they could be counted."""
        return self.expectation.source is ExpectationSource.none

    @property
    def plain_verdict(self) -> Verdict:
        """The verdict of an answer that gives no reason for doubt."""
        return Verdict.unverified if self.is_unverifiable else Verdict.complete

    @cached_property
    def is_short(self) -> bool:
        """Whether there are too few rows, in all or in a part, or exactly as many as in an answer that was cut."""
        if self.is_unverifiable:
            return False
        if falls_short(self.found, self.expectation.rows):
            return True
        if self.answer.length == self.knowledge.stats.shortest_truncated and (
            self.parts or self.found < self.expectation.rows
        ):
            return True
        # A truncated answer can keep 80 % of its rows and lose its end, so each part is checked by itself too.
        for part in self.parts:
            inside = [bucket for bucket in self.final if part.contains(bucket)]
            if part_falls_short(self.answer.count(inside), self.expect(inside).rows):
                return True
        return False

    @property
    def is_plainly_empty(self) -> bool:
        """Whether it has no rows and only the declaration expects some.

        A limit cuts no answer to nothing, so its parts would say the same now. Only a second look tells a closed day from a
        vendor that answers nothing for a moment.
        """
        return not self.answer.length and self.expectation.source is ExpectationSource.declaration

    @property
    def may_be_at_a_limit(self) -> bool:
        """Whether it is long enough to have met a limit of the vendor."""
        shortest = self.knowledge.stats.shortest_truncated or self.knowledge.shortest_limit
        return self.answer.length >= shortest or self._is_nearly_as_large_as_a_truncated_one()

    @cached_property
    def probes(self) -> list[Interval]:
        """The queries to compare it with: its halves if it may be at a limit, or its end if that has too few rows."""
        if not self.parts or not self.final:
            return []
        if self._is_of_a_suspect_length():
            return self.knowledge.halves(self.answer.interval)
        tail = self._tail()
        if tail_falls_short(self.answer.count(tail), self.expect(tail).rows):
            return [Interval(tail[0].start, tail[-1].end)]
        return []

    def _tail(self) -> list[Interval]:
        """Return the last final bucket that has rows, and the empty ones after it."""
        filled = [place for place, bucket in enumerate(self.final) if self.answer.count([bucket])]
        return self.final[filled[-1] :] if filled else self.final[-1:]

    def _is_of_a_suspect_length(self) -> bool:
        length, stats, limit = self.answer.length, self.knowledge.stats, self.knowledge.shortest_limit
        if length >= limit and (length > stats.longest_complete or self._is_largest() or length % limit == 0):
            return True
        if stats.shortest_truncated is not None and length >= _NEARLY * stats.shortest_truncated:
            return True
        return self._is_nearly_as_large_as_a_truncated_one()

    def _is_largest(self) -> bool:
        """Whether it has more bytes than every complete answer, and enough rows to have met a limit."""
        is_long = self.answer.length >= self.knowledge.shortest_limit
        return is_long and self.answer.size > max(0, self.knowledge.stats.most_bytes_complete)

    def _is_nearly_as_large_as_a_truncated_one(self) -> bool:
        fewest = self.knowledge.stats.fewest_bytes_truncated
        is_long = self.answer.length >= self.knowledge.shortest_limit
        return is_long and fewest is not None and self.answer.size >= _NEARLY * fewest

    @cached_property
    def missing_probes(self) -> tuple[Interval, ...]:
        """The probes that were not asked yet; none if probing cannot help."""
        if self._is_beyond_probing:
            return ()
        return tuple(each for each in self.probes if not self.verification.evidence.has(each))

    @property
    def _is_beyond_probing(self) -> bool:
        """Whether a probe would be as long as the answer itself, so that only a split can tell."""
        return (
            any(
                probe == self.answer.interval
                or self.answer.count(self._inside(probe)) >= _NEARLY * self.answer.length > 0
                for probe in self.probes
            )
            and self.may_be_at_a_limit
        )

    def _inside(self, interval: Interval) -> Iterator[Interval]:
        return (bucket for bucket in self.final if interval.contains(bucket))

    @cached_property
    def is_suspect(self) -> bool:
        """Whether the answer must be split. Call it once all probes are answered."""
        if self.is_short:
            return True
        if not self.probes:
            return False
        if self._is_beyond_probing or self.answer.interval in self.probes:
            return True
        answers = self.verification.evidence.answers
        return not all(
            probe in answers and self.agrees_with([answers[probe]], list(self._inside(probe))) for probe in self.probes
        )

    def agrees_with(self, others: Sequence[AnsweredQuery], on: Iterable[Interval]) -> bool:
        """Return whether other answers together have exactly the same rows in some of its final buckets."""
        theirs = merge_tallies(other.tallies for other in others)
        return all(theirs.get(bucket.start) == self.answer.tallies.get(bucket.start) for bucket in on)

    @cached_property
    def second_look(self) -> SecondLook | None:
        """Why its final buckets stay provisional for now."""
        if self.knowledge.report.rows is not None or not self.final or self.was_seen_before:
            return None
        if self.is_unverifiable:
            return SecondLook.unverified
        expected = self.knowledge.density.expect(self.final)
        is_unexpected = expected.source is ExpectationSource.history and falls_short(self.found, expected.rows)
        # Below one expected row, an empty answer is what most such intervals have.
        is_empty = not self.found and self.expectation.rows >= 1
        return SecondLook.unexpected if is_unexpected or is_empty else None

    @cached_property
    def was_seen_before(self) -> bool:
        """Whether history holds the same rows of all its final buckets from a query that is old enough."""
        evidence = self.verification.evidence
        if not self.final or IntervalSet(self.final) - evidence.earlier:
            return False
        return all(
            evidence.earlier_tallies.get(bucket.start) == self.answer.tallies.get(bucket.start) for bucket in self.final
        )

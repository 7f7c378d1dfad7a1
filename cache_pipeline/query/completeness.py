"""Rules that decide whether an answer is complete: how many rows it should have, and what a shortfall means (G22).

This module is pure. `query/verification.py` decides with them what to ask next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from cache_pipeline.query.interval import Interval

#: An answer with a smaller share of the expected rows is checked again (G22).
MIN_ROW_SHARE = 0.8
#: Below this number of expected rows, chance alone explains a smaller share.
RARE_ROWS = 25
#: No vendor is known to truncate answers shorter than one page.
MIN_TRUNCATION_ROWS = 1000


class ExpectationSource(StrEnum):
    """Where an expected row count comes from."""

    history = "history"
    declaration = "declaration"
    none = "none"


class Verdict(StrEnum):
    """What was decided about one answer of the vendor.

    Attributes:
        complete: It has enough rows.
        sparse: It has too few rows, but its parts have exactly the same rows.
        truncated: Its parts have more rows. The answer is discarded, and only the parts are kept.
        restated: Its parts have no more rows but other figures, because the vendor restated them meanwhile. Only the parts are kept.
        incomplete: It has too few rows and cannot be split further.
        unverified: No row count is expected yet, so it could not be checked.
        refused: The vendor refused the query for its size. Only the parts are kept.
        failed: The vendor's job failed, and its halves did not. Only the halves are kept.
    """

    complete = "complete"
    sparse = "sparse"
    truncated = "truncated"
    restated = "restated"
    incomplete = "incomplete"
    unverified = "unverified"
    refused = "refused"
    failed = "failed"


@dataclass(frozen=True)
class Expectation:
    """The number of rows expected of an interval, and where that number comes from."""

    rows: float
    source: ExpectationSource


@dataclass(frozen=True)
class ChunkResult:
    """The verdict on one answer of the vendor, with its figures.

    Attributes:
        interval: The interval of the query.
        expected: The number of rows its final buckets should have had.
        source: Where that number comes from.
        got: The number of rows they had.
        verdict: The verdict.
        calls: Requests it took, including those of queries that were only compared with it.
        seconds: Time from submit to the last page.
        watermark: The instant up to which the vendor called its data complete.
        length: The number of all its rows, including provisional ones.
        parts: The number of parts in which it was fetched again; 0 if it was not split.
        folded: The number of final rows that were folded into others, because the vendor split their groups unasked.
        size: Its length in bytes; 0 if it is not known.
        sent: The number of rows as the vendor sent them in each final bucket, by its start, if it split any group; else
            empty.
    """

    interval: Interval
    expected: float
    source: ExpectationSource
    got: int
    verdict: Verdict
    calls: int
    seconds: float
    watermark: datetime
    length: int = 0
    parts: int = 0
    folded: int = 0
    size: int = 0
    sent: Mapping[datetime, int] = field(default_factory=dict[datetime, int], compare=False, repr=False)

    @property
    def kept(self) -> int:
        """The number of final rows after folding."""
        return self.got - self.folded

    @property
    def final_size(self) -> int:
        """The bytes of its final rows, as a share of its size."""
        return self.size * self.got // self.length if self.length else 0

    @property
    def is_superseded(self) -> bool:
        """Whether none of its rows are stored, because those of its parts are."""
        return self.verdict in (Verdict.truncated, Verdict.restated, Verdict.refused, Verdict.failed)

    @property
    def is_truncated(self) -> bool:
        """Whether it was truncated at a known length."""
        return self.verdict is Verdict.truncated and self.length > 0


@dataclass(frozen=True)
class TruncationStats:
    """What is known about the lengths of a series' answers.

    Attributes:
        longest_complete: The number of final rows of the longest answer found complete, or -1. A vendor that truncates at some
            length did not truncate a shorter answer, so history may judge shorter answers. A longer answer is compared with the
            declaration, because history from sparse days would accept anything, and its tail is fetched separately.
        most_bytes_complete: The same in bytes, for vendors that limit those: an answer of long rows is cut at fewer of them.
        shortest_truncated: The number of rows of the shortest answer found truncated, or None.
        fewest_bytes_truncated: The same in bytes, or None.
        shortest_refused: The shortest interval that the vendor refused as too large, or None.
        failed_once: The lengths of intervals whose job failed once while its halves did not, with no answer to such a long
            interval since. A second failure shows that it was no accident, and counts as a refusal.
    """

    longest_complete: int = -1
    shortest_truncated: int | None = None
    shortest_refused: timedelta | None = None
    failed_once: frozenset[timedelta] = frozenset()
    most_bytes_complete: int = -1
    fewest_bytes_truncated: int | None = None

    def with_results(self, chunks: Iterable[ChunkResult]) -> TruncationStats:
        """Return the statistics after some more verdicts."""
        known = self
        for chunk in chunks:
            if chunk.verdict not in (Verdict.refused, Verdict.failed):
                known = replace(
                    known, failed_once=frozenset(each for each in known.failed_once if each > chunk.interval.length)
                )
            if chunk.is_truncated:
                # The vendor may have lowered its limit, so longer complete answers from before no longer count.
                least = min(chunk.length, known.shortest_truncated or chunk.length)
                longest = min(known.longest_complete, chunk.length - 1)
                known = replace(known, longest_complete=longest, shortest_truncated=least).after_cut_at(chunk.size)
            elif chunk.verdict is Verdict.refused:
                known = known.after_refusal(chunk.interval)
            elif chunk.verdict is Verdict.failed:
                known = known.after_failure(chunk.interval)
            elif chunk.verdict in (Verdict.complete, Verdict.sparse) and (chunk.got or chunk.expected):
                # A longer complete answer shows that the vendor has raised its limit.
                is_beyond = known.shortest_truncated is not None and chunk.got > known.shortest_truncated
                known = replace(
                    known,
                    longest_complete=max(known.longest_complete, chunk.got),
                    shortest_truncated=None if is_beyond else known.shortest_truncated,
                ).after_complete(chunk.final_size)
        return known

    def after_refusal(self, interval: Interval) -> TruncationStats:
        """Return the statistics after the vendor has refused an interval as too large."""
        length = interval.end - interval.start
        return replace(self, shortest_refused=min(length, self.shortest_refused or length))

    def after_cut_at(self, size: int) -> TruncationStats:
        """Return the statistics after an answer was truncated at some size in bytes; 0 if that is not known."""
        if not size:
            return self
        return replace(
            self,
            most_bytes_complete=min(self.most_bytes_complete, size - 1),
            fewest_bytes_truncated=min(size, self.fewest_bytes_truncated or size),
        )

    def after_complete(self, size: int) -> TruncationStats:
        """Return the statistics after an answer of some size in bytes was complete; 0 if that is not known."""
        is_beyond = self.fewest_bytes_truncated is not None and size > self.fewest_bytes_truncated
        return replace(
            self,
            most_bytes_complete=max(self.most_bytes_complete, size or -1),
            fewest_bytes_truncated=None if is_beyond else self.fewest_bytes_truncated,
        )

    def after_failure(self, interval: Interval) -> TruncationStats:
        """Return the statistics after a job has failed whose halves did not."""
        if interval.length in self.failed_once:
            return replace(self.after_refusal(interval), failed_once=self.failed_once - {interval.length})
        return replace(self, failed_once=self.failed_once | {interval.length})


@dataclass
class RowDensity:
    """How many groups buckets have had, by weekday and local time of day, and so how many comparable buckets should have.

    Attributes:
        zone: The report's time zone, in which hours and days are compared.
        declared: Groups of a full bucket according to the filter or declaration, or None.
        groups: If only some metrics are fetched and history holds the others: the groups of each bucket by its start. A vendor
            leaves out a group without the metrics that are asked for, so there may be fewer, and how many fewer is learned.
    """

    zone: ZoneInfo
    declared: int | None
    groups: Mapping[datetime, int] | None = None
    _observed: dict[tuple[object, ...], tuple[int, int]] = field(
        default_factory=dict[tuple[object, ...], tuple[int, int]]
    )

    def _keys(self, bucket: Interval) -> list[tuple[object, ...]]:
        local = bucket.start.astimezone(self.zone)
        # The same weekday is the best estimate, then the same kind of day. A Sunday says nothing about a Monday.
        return [(local.time(), local.isoweekday()), (local.time(), local.isoweekday() >= 6, "kind")]

    def learn(self, groups_by_bucket: Mapping[Interval, int]) -> None:
        """Add the number of groups in final buckets of complete answers; empty buckets count as zero."""
        for bucket, groups in groups_by_bucket.items():
            for key in self._keys(bucket):
                total, count = self._observed.get(key, (0, 0))
                self._observed[key] = (total + groups, count + self._weight(bucket))

    def _weight(self, bucket: Interval) -> int:
        return 1 if self.groups is None else self.groups.get(bucket.start, 0)

    def expect(self, buckets: Iterable[Interval]) -> Expectation:
        """Return how many rows these buckets should have together.

        While nothing is known of some metrics but the groups of the others, one row is expected: an empty answer needs a second
        look, and any other is only checked for the signs of a limit.
        """
        rows, sources, unknown = 0.0, set[ExpectationSource](), 0
        for bucket in buckets:
            known = next((self._observed[key] for key in self._keys(bucket) if key in self._observed), None)
            if known is not None:
                rows += known[0] / known[1] * self._weight(bucket) if known[1] else 0.0
                sources.add(ExpectationSource.history)
            elif self.groups is not None:
                unknown += self._weight(bucket)
            elif self.declared is not None:
                rows += self.declared
                sources.add(ExpectationSource.declaration)
            else:
                return Expectation(0.0, ExpectationSource.none)
        if self.groups is not None:
            # How many groups lack the metrics varies, so chance is allowed for before anything is compared with this.
            rows = max(rows - 2 * math.sqrt(rows), min(rows + unknown, 1.0))
        return Expectation(
            rows,
            ExpectationSource.declaration if ExpectationSource.declaration in sources else ExpectationSource.history,
        )

    def expect_as_declared(self, buckets: Iterable[Interval]) -> Expectation:
        """Return how many rows these buckets should have according to the declaration, or to history if it expects as many."""
        known = list(buckets)
        learned = self.expect(known)
        declared = len(known) * (self.declared or 0)
        return Expectation(declared, ExpectationSource.declaration) if declared > learned.rows else learned


def falls_short(got: int, expected: float) -> bool:
    """Return whether ``got`` rows are fewer than 80 % of those expected (G22) and than chance explains.

    Counts of rare events vary by about their square root: of three expected rows, one or none is no reason for doubt.
    """
    margin = 0.0 if expected >= RARE_ROWS else 2 * math.sqrt(expected)
    return got < min(MIN_ROW_SHARE * expected, expected - margin)


def part_falls_short(got: int, expected: float) -> bool:
    """Return whether a part of an answer has fewer rows than chance explains.

    A truncated answer can keep 80 % of its rows and lose its whole tail, so parts are checked too. Counts of rare events vary by
    about their square root, so a part is doubted only if it falls short by more than four square roots.
    """
    return got < MIN_ROW_SHARE * expected and got < expected - 4 * math.sqrt(expected)


def tail_falls_short(got: int, expected: float) -> bool:
    """Return whether the last buckets of an answer, which truncation hits first, have fewer rows than chance often explains.

    Fetching the tail again costs only one query, so a smaller shortfall is enough than for a part.
    """
    return got < MIN_ROW_SHARE * expected and expected - got >= 2 * math.sqrt(expected)


def final_buckets(buckets: Iterable[Interval], watermark: datetime) -> list[Interval]:
    """Return the buckets that the vendor calls complete: those that end at or before the watermark."""
    return [bucket for bucket in buckets if bucket.end <= watermark]

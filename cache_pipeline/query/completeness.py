"""How many rows an answer should have, and what its shortfall means (G22 and the rules that make it a proof)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from cache_pipeline.query.interval import Interval

#: Below this share of the expected rows an answer is not believed (G22).
MIN_ROW_SHARE = 0.8
#: No vendor is known to cut answers that are shorter than a page.
MIN_TRUNCATION_ROWS = 1000


class ExpectationSource(StrEnum):
    """Where an expectation comes from."""

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
    """

    complete = "complete"
    sparse = "sparse"
    truncated = "truncated"
    restated = "restated"
    incomplete = "incomplete"
    unverified = "unverified"


@dataclass(frozen=True)
class Expectation:
    """Rows expected of an interval, and on whose word."""

    rows: float
    source: ExpectationSource


@dataclass(frozen=True)
class ChunkResult:
    """What was decided about one vendor answer.

    Attributes:
        interval: what was asked.
        expected: rows its final buckets should have had, and ``source`` on whose word.
        got: rows they had.
        verdict: what follows.
        calls: requests it took, those of queries that were only compared with it included.
        seconds: from submit to the last page.
        watermark: until when the vendor called its data complete.
        length: rows it had in all, the provisional ones too.
        parts: how many parts it was asked for again in; 0 where it was not split.
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

    @property
    def is_superseded(self) -> bool:
        """Whether nothing of it is kept, since its parts are."""
        return self.verdict in (Verdict.truncated, Verdict.restated)

    @property
    def is_truncated(self) -> bool:
        """Whether it proved to be cut off, at a length that is known."""
        return self.verdict is Verdict.truncated and self.length > 0


@dataclass(frozen=True)
class TruncationStats:
    """What is known of the lengths of a series' answers.

    Attributes:
        longest_complete: final rows of the longest that was found whole, or -1. A vendor that cuts at some length has not cut
            a shorter one, so history may judge that; a longer one is held against the declaration, for a history of
            thin days would believe anything, and its tail is asked for by itself.
        shortest_truncated: rows of the shortest that proved to be cut off, or None.
    """

    longest_complete: int = -1
    shortest_truncated: int | None = None

    def after(self, chunks: Iterable[ChunkResult]) -> TruncationStats:
        """What some more verdicts teach."""
        known = self
        for chunk in chunks:
            if chunk.is_truncated:
                # Where limits are lowered, longer answers of before say nothing any more.
                least = min(chunk.length, known.shortest_truncated or chunk.length)
                known = TruncationStats(min(known.longest_complete, chunk.length - 1), least)
            elif chunk.verdict in (Verdict.complete, Verdict.sparse) and (chunk.got or chunk.expected):
                # Where they are raised, a longer one that is whole says so.
                is_beyond = known.shortest_truncated is not None and chunk.got > known.shortest_truncated
                known = TruncationStats(
                    max(known.longest_complete, chunk.got), None if is_beyond else known.shortest_truncated
                )
        return known


@dataclass
class RowDensity:
    """Groups that buckets have had, by weekday and local time of day, and so what comparable buckets should have.

    Attributes:
        zone: the report's zone, in which hours and days are compared.
        declared: groups of a full bucket by filter or declaration, or None.
    """

    zone: ZoneInfo
    declared: int | None
    _seen: dict[tuple[object, ...], tuple[int, int]] = field(default_factory=dict[tuple[object, ...], tuple[int, int]])

    def _keys(self, bucket: Interval) -> list[tuple[object, ...]]:
        local = bucket.start.astimezone(self.zone)
        # A weekday knows itself best, then its kind of day; a Sunday says nothing of a Monday.
        return [(local.time(), local.isoweekday()), (local.time(), local.isoweekday() >= 6, "kind")]

    def learn(self, groups_by_bucket: Mapping[Interval, int]) -> None:
        """Take in how many groups final buckets of complete answers had; empty buckets count as zero."""
        for bucket, groups in groups_by_bucket.items():
            for key in self._keys(bucket):
                total, count = self._seen.get(key, (0, 0))
                self._seen[key] = (total + groups, count + 1)

    def expect(self, buckets: Iterable[Interval]) -> Expectation:
        """Rows that these buckets should have together."""
        rows, sources = 0.0, set[ExpectationSource]()
        for bucket in buckets:
            known = next((self._seen[key] for key in self._keys(bucket) if key in self._seen), None)
            if known is not None:
                rows += known[0] / known[1]
                sources.add(ExpectationSource.history)
            elif self.declared is not None:
                rows += self.declared
                sources.add(ExpectationSource.declaration)
            else:
                return Expectation(0.0, ExpectationSource.none)
        return Expectation(
            rows,
            ExpectationSource.declaration if ExpectationSource.declaration in sources else ExpectationSource.history,
        )

    def expect_as_declared(self, buckets: Iterable[Interval]) -> Expectation:
        """Rows that these buckets should have by filter or declaration, or by history where neither tells more."""
        known = list(buckets)
        learned = self.expect(known)
        declared = len(known) * (self.declared or 0)
        return Expectation(declared, ExpectationSource.declaration) if declared > learned.rows else learned


def falls_short(got: int, expected: float) -> bool:
    """Whether ``got`` rows are fewer than 80 % of those expected (G22)."""
    return got < MIN_ROW_SHARE * expected


def part_falls_short(got: int, expected: float) -> bool:
    """Whether a part of an answer falls short by more than chance explains.

    A truncated answer can keep 80 % of its rows and lose its whole tail, so parts are judged too; rare events vary by
    about their square root, hence the margin of four of those before a thin part is doubted.
    """
    return falls_short(got, expected) and got < expected - 4 * math.sqrt(expected)


def tail_falls_short(got: int, expected: float) -> bool:
    """Whether the last buckets of an answer, which a cut hits first, fall short by more than chance often explains.

    Asking for the tail once more costs one query, so a smaller doubt is enough than for a part.
    """
    return falls_short(got, expected) and expected - got >= 2 * math.sqrt(expected)


def final_buckets(buckets: Iterable[Interval], watermark: datetime) -> list[Interval]:
    """The buckets that the vendor calls complete: those that end at or before the watermark."""
    return [bucket for bucket in buckets if bucket.end <= watermark]

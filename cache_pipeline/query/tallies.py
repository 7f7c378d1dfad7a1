"""Counts and digests of rows by bucket, by which answers are compared without their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

#: Digests are sums modulo 2**64.
HASH_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class RowTally:
    """The count and digest of some rows.

    Attributes:
        rows: The number of rows.
        sum: The sum of their hashes, modulo 2**64.
        second_sum: The sum of other hashes of the same rows. Errors that cancel out in one sum do not in the other.
    """

    rows: int = 0
    sum: int = 0
    second_sum: int = 0

    def __add__(self, other: RowTally) -> RowTally:
        return RowTally(
            self.rows + other.rows, (self.sum + other.sum) & HASH_MASK, (self.second_sum + other.second_sum) & HASH_MASK
        )


def merge_tallies(tallies: Iterable[Mapping[datetime, RowTally]]) -> dict[datetime, RowTally]:
    """Add up tallies by bucket start."""
    total: dict[datetime, RowTally] = {}
    for tally in tallies:
        for start, addend in tally.items():
            total[start] = total.get(start, RowTally()) + addend
    return total

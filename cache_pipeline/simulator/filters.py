"""Which calls a query means: conditions on dimensions, joined by and / or."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np

from cache_pipeline.simulator.calls import Codes, Flags
from cache_pipeline.simulator.organisation import Organisation


class Condition(Protocol):
    """Says of each event whether it counts."""

    def holds(self, codes: Mapping[str, Codes], count: int) -> Flags:
        """Return a flag for each of `count` events whose dimension codes are `codes`."""
        ...


@dataclass(frozen=True)
class Membership:
    """The dimension's code is one for which `table` says yes; the table's last entry is for "no value"."""

    dimension: str
    table: Flags

    def holds(self, codes: Mapping[str, Codes], count: int) -> Flags:
        """Return the table's word for each event."""
        absent = np.zeros(count, dtype=np.int64)
        return self.table[codes.get(self.dimension, absent)]


@dataclass(frozen=True)
class Joined:
    """All or any of the parts hold; without parts, everything does."""

    every: bool
    parts: tuple[Condition, ...]

    def holds(self, codes: Mapping[str, Codes], count: int) -> Flags:
        """Return the joined flags."""
        if not self.parts:
            return np.ones(count, dtype=np.bool_)
        join = np.logical_and if self.every else np.logical_or
        return reduce(join, (part.holds(codes, count) for part in self.parts))


def is_one_of(organisation: Organisation, dimension: str, values: Iterable[str]) -> Membership:
    """Return the condition that `dimension` has one of `values`; values nobody has are allowed and match nothing."""
    wanted = set(values)
    known = organisation.values.get(dimension, ())
    return Membership(dimension, np.array([*(value in wanted for value in known), False], dtype=np.bool_))


def has_value(organisation: Organisation, dimension: str) -> Membership:
    """Return the condition that `dimension` has any value."""
    return Membership(dimension, np.array([True] * organisation.size(dimension) + [False], dtype=np.bool_))


def negated(membership: Membership) -> Membership:
    """Return the opposite condition."""
    return Membership(membership.dimension, ~membership.table)

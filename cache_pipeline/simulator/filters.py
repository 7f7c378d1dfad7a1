"""Conditions that select calls: values of dimensions, combined by and / or."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np

from cache_pipeline.simulator.calls import Codes, Flags
from cache_pipeline.simulator.organisation import Organisation


class Condition(Protocol):
    """Selects events."""

    def holds(self, codes: Mapping[str, Codes], count: int) -> Flags:
        """Return a flag for each of `count` events whose dimension codes are `codes`."""
        ...


@dataclass(frozen=True)
class Membership:
    """Selects events whose dimension code is true in `table`; the table's last entry is for "no value"."""

    dimension: str
    table: Flags

    def holds(self, codes: Mapping[str, Codes], count: int) -> Flags:
        """Return the table's entry for each event."""
        absent = np.zeros(count, dtype=np.int64)
        return self.table[codes.get(self.dimension, absent)]


@dataclass(frozen=True)
class Compound:
    """Selects events for which all or any of the parts hold; without parts, all events."""

    requires_all: bool
    parts: tuple[Condition, ...]

    def holds(self, codes: Mapping[str, Codes], count: int) -> Flags:
        """Return the combined flags."""
        if not self.parts:
            return np.ones(count, dtype=np.bool_)
        combine = np.logical_and if self.requires_all else np.logical_or
        return reduce(combine, (part.holds(codes, count) for part in self.parts))


def is_one_of(organisation: Organisation, dimension: str, values: Iterable[str]) -> Membership:
    """Return the condition that `dimension` has one of `values`; unknown values are allowed and match nothing."""
    selected = set(values)
    known = organisation.values.get(dimension, ())
    return Membership(dimension, np.array([*(value in selected for value in known), False], dtype=np.bool_))


def has_value(organisation: Organisation, dimension: str) -> Membership:
    """Return the condition that `dimension` has any value."""
    return Membership(dimension, np.array([True] * organisation.size(dimension) + [False], dtype=np.bool_))


def negated(membership: Membership) -> Membership:
    """Return the opposite condition."""
    return Membership(membership.dimension, ~membership.table)

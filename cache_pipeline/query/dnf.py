"""Conditions on dimensions as sets: what every spelling of a filter comes down to (G6).

A condition on one dimension is a set of values, or everything but a set; None is the row that has no value. Conditions on
several dimensions that must hold together are a *box*; a filter is a union of boxes. The union of all *largest* boxes is the
same for every way to write a filter, as the prime implicants of a formula are, and so is what keys are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

from cache_pipeline.errors import QueryError

#: More boxes than anybody writes by hand; beyond, finding the largest ones would take long.
_MOST_BOXES = 64


class ValueSet(NamedTuple):
    """The values that a dimension may have: ``values``, or with ``excluding`` all but those."""

    values: frozenset[str | None]
    is_exclusion: bool = False

    def __and__(self, other: ValueSet) -> ValueSet:
        if self.is_exclusion and other.is_exclusion:
            return ValueSet(self.values | other.values, is_exclusion=True)
        if self.is_exclusion:
            return ValueSet(other.values - self.values)
        return ValueSet(self.values - other.values if other.is_exclusion else self.values & other.values)

    def __or__(self, other: ValueSet) -> ValueSet:
        return ~(~self & ~other)

    def __invert__(self) -> ValueSet:
        return ValueSet(self.values, is_exclusion=not self.is_exclusion)

    def is_subset_of(self, other: ValueSet) -> bool:
        """Whether every value of this set is one of the other's."""
        if other.is_exclusion:
            return other.values <= self.values if self.is_exclusion else other.values.isdisjoint(self.values)
        return not self.is_exclusion and self.values <= other.values

    @property
    def is_empty(self) -> bool:
        """Whether no value is meant."""
        return not self.values and not self.is_exclusion

    @property
    def is_everything(self) -> bool:
        """Whether every value is meant, and none."""
        return not self.values and self.is_exclusion


#: Dimension to its set; a dimension that is absent may have any value. Never holds an empty or a full set.
Conjunction = Mapping[str, ValueSet]
Conjunctions = tuple[Conjunction, ...]

MATCH_ALL: Conjunctions = ({},)
MATCH_NONE: Conjunctions = ()


def make_condition(dimension: str, values: ValueSet) -> Conjunctions:
    """One condition on one dimension."""
    if values.values:
        return ({dimension: values},)
    return MATCH_ALL if values.is_exclusion else MATCH_NONE


def all_of(parts: Iterable[Conjunctions]) -> Conjunctions:
    """What all of the parts allow."""
    found = MATCH_ALL
    for part in parts:
        if found is MATCH_ALL:
            found = part
            continue
        met = [_met(one, other) for one in found for other in part]
        found = _unabsorbed([box for box in met if box is not None])
    return found


def any_of(parts: Iterable[Conjunctions]) -> Conjunctions:
    """What any of the parts allows."""
    boxes = [box for part in parts for box in part]
    if len(boxes) <= 1:
        return tuple(boxes)
    # Conditions on one dimension alone become one condition, as they mostly are a list of its values.
    alone: dict[str, ValueSet] = {}
    several: list[Conjunction] = []
    for box in boxes:
        if len(box) != 1:
            several.append(box)
            continue
        for name, values in box.items():
            alone[name] = alone[name] | values if name in alone else values
    joined = [make_condition(name, values) for name, values in alone.items()]
    return _unabsorbed([*(box for part in joined for box in part), *several])


def negate(boxes: Conjunctions) -> Conjunctions:
    """What the boxes do not allow."""
    return all_of(any_of(make_condition(name, ~values) for name, values in box.items()) for box in boxes)


def prime_implicants(boxes: Conjunctions) -> Conjunctions:
    """All largest boxes within a union of boxes, in an order of their own: equal for equal unions.

    Raises:
        QueryError: there are too many of them.
    """
    found = _unabsorbed(boxes)
    while len(found) > 1:
        spanning = [
            joined
            for one, other in combinations(found, 2)
            for name in one.keys() & other.keys()
            if (joined := _joined_on(name, one, other)) is not None
        ]
        if not spanning:
            break
        grown = _unabsorbed([*found, *spanning])
        # What is kept of those there were comes first, in their order.
        if grown == found:
            break
        found = grown
    return tuple(sorted(found, key=_order)) if len(found) > 1 else found


def _met(one: Conjunction, other: Conjunction) -> Conjunction | None:
    """What both allow; None where that is nothing."""
    met = {**one, **other}
    for name in one.keys() & other.keys():
        met[name] = one[name] & other[name]
        if met[name].is_empty:
            return None
    return met


def _joined_on(name: str, one: Conjunction, other: Conjunction) -> Conjunction | None:
    """The box that spans two others along one dimension (their consensus); None where they have nothing in common."""
    rest = _met(
        {key: values for key, values in one.items() if key != name},
        {key: values for key, values in other.items() if key != name},
    )
    if rest is None:
        return None
    spanned = one[name] | other[name]
    return rest if spanned.is_everything else {**rest, name: spanned}


def _within(one: Conjunction, other: Conjunction) -> bool:
    return all(name in one and one[name].is_subset_of(values) for name, values in other.items())


def _unabsorbed(boxes: Iterable[Conjunction]) -> Conjunctions:
    """Without the boxes that lie within another."""
    given = tuple(boxes)
    if len(given) <= 1:
        return given
    kept: list[Conjunction] = []
    for box in given:
        if any(_within(box, other) for other in kept):
            continue
        kept = [other for other in kept if not _within(other, box)]
        kept.append(box)
        if len(kept) > _MOST_BOXES:
            raise QueryError(
                f"the filter comes to more than {_MOST_BOXES} alternatives: ask for fewer at a time, or list values "
                "of one dimension with the operator in"
            )
    return tuple(kept)


def _order(box: Conjunction) -> list[tuple[str, bool, list[str]]]:
    return [(name, values.is_exclusion, _comparable(values.values)) for name, values in sorted(box.items())]


def _comparable(values: Iterable[str | None]) -> list[str]:
    # Having none is no text that a value could be.
    return sorted(["" if value is None else f"={value}" for value in values])


def sort_values(values: frozenset[str | None]) -> list[str | None]:
    """Values as they are written: having none comes first, then texts by their characters."""
    texts = sorted(value for value in values if value is not None)
    return [None, *texts] if None in values else [*texts]

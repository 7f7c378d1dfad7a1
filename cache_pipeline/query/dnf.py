"""Row filters in disjunctive normal form, reduced to one canonical form for every spelling of a filter (G6).

A condition on one dimension is a set of values, or everything except a set. The value None stands for a row without a value.
Conditions on several dimensions that must hold together are a *conjunction*, and a filter is a disjunction of conjunctions.
The disjunction of all *prime implicants* (the conjunctions that cannot be made wider) is the same for every spelling of a
filter, so cache keys are made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

from cache_pipeline.errors import QueryError

#: More conjunctions than anyone writes by hand. Beyond it, finding the prime implicants would take long.
_MAX_CONJUNCTIONS = 64
#: Comparisons of two conjunctions, about a microsecond each. Filters that people write need some hundred.
_MAX_STEPS = 50_000
#: So many values are compared in the time of one step.
_VALUES_PER_STEP = 32


class StepBudget:
    """Bounds the work on one filter, which an untrusted caller may have written."""

    def __init__(self, steps: int = _MAX_STEPS) -> None:
        self._remaining = steps

    def spend(self, steps: int = 1) -> None:
        """Count some steps.

        Raises:
            QueryError: The budget is used up.
        """
        self._remaining -= steps
        if self._remaining < 0:
            raise QueryError(
                "the filter is too complex: split the query, or list the values of one dimension with the operator in"
            )


class ValueSet(NamedTuple):
    """The values that a dimension may have: ``values``, or everything except them if ``is_exclusion`` is set."""

    values: frozenset[str | None]
    is_exclusion: bool = False

    def allows(self, value: object) -> bool:
        """Return whether a value is in the set."""
        return (value in self.values) is not self.is_exclusion

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
        """Return whether every value of this set is also in the other."""
        if other.is_exclusion:
            return other.values <= self.values if self.is_exclusion else other.values.isdisjoint(self.values)
        return not self.is_exclusion and self.values <= other.values

    @property
    def is_empty(self) -> bool:
        """Whether the set has no value."""
        return not self.values and not self.is_exclusion

    @property
    def is_everything(self) -> bool:
        """Whether the set has every value, None included."""
        return not self.values and self.is_exclusion


#: Dimension to its value set. An absent dimension may have any value. No set in it is empty or has every value.
Conjunction = Mapping[str, ValueSet]
Conjunctions = tuple[Conjunction, ...]

MATCH_ALL: Conjunctions = ({},)
MATCH_NONE: Conjunctions = ()


def make_condition(dimension: str, values: ValueSet) -> Conjunctions:
    """Return the disjunction that is one condition on one dimension."""
    if values.values:
        return ({dimension: values},)
    return MATCH_ALL if values.is_exclusion else MATCH_NONE


def all_of(parts: Iterable[Conjunctions], budget: StepBudget | None = None) -> Conjunctions:
    """Return the disjunction that allows what every part allows.

    Raises:
        QueryError: There are too many alternatives, or the budget is used up. This and all other functions have a budget of
            their own unless they get one.
    """
    result, budget = MATCH_ALL, budget or StepBudget()
    for part in parts:
        if result is MATCH_ALL:
            result = part
            continue
        budget.spend(len(result) * len(part))
        products = [_intersect(one, other) for one in result for other in part]
        result = _remove_absorbed([each for each in products if each is not None], budget)
    return result


def any_of(parts: Iterable[Conjunctions], budget: StepBudget | None = None) -> Conjunctions:
    """Return the disjunction that allows what at least one part allows."""
    budget = budget or StepBudget()
    conjunctions = [each for part in parts for each in part]
    if len(conjunctions) <= 1:
        return tuple(conjunctions)
    # Merge conditions on a single dimension first: most of them are a list of its values.
    single: dict[str, ValueSet] = {}
    multiple: list[Conjunction] = []
    for each in conjunctions:
        if len(each) != 1:
            multiple.append(each)
            continue
        for name, values in each.items():
            if name in single:
                budget.spend(_steps(single[name], values))
                values = single[name] | values
            single[name] = values
    merged = [make_condition(name, values) for name, values in single.items()]
    return _remove_absorbed([*(each for part in merged for each in part), *multiple], budget)


def negate(conjunctions: Conjunctions, budget: StepBudget | None = None) -> Conjunctions:
    """Return the disjunction that allows what the given one does not."""
    budget = budget or StepBudget()
    return all_of(
        (any_of((make_condition(name, ~values) for name, values in each.items()), budget) for each in conjunctions),
        budget,
    )


def prime_implicants(conjunctions: Conjunctions, budget: StepBudget | None = None) -> Conjunctions:
    """Return all prime implicants of a disjunction in a canonical order, equal for equivalent disjunctions.

    Raises:
        QueryError: There are too many of them, or the budget is used up.
    """
    budget = budget or StepBudget()
    implicants = _remove_absorbed(conjunctions, budget)
    while len(implicants) > 1:
        budget.spend(len(implicants) * len(implicants))
        consensuses = [
            consensus
            for one, other in combinations(implicants, 2)
            for name in one.keys() & other.keys()
            if (consensus := _consensus(name, one, other)) is not None
        ]
        if not consensuses:
            break
        extended = _remove_absorbed([*implicants, *consensuses], budget)
        # The implicants that remain come first and keep their order, so equality means that nothing was added.
        if extended == implicants:
            break
        implicants = extended
    return tuple(sorted(implicants, key=_sort_key)) if len(implicants) > 1 else implicants


def _intersect(one: Conjunction, other: Conjunction) -> Conjunction | None:
    """Return what both conjunctions allow, or None if that is nothing."""
    product = {**one, **other}
    for name in one.keys() & other.keys():
        product[name] = one[name] & other[name]
        if product[name].is_empty:
            return None
    return product


def _consensus(name: str, one: Conjunction, other: Conjunction) -> Conjunction | None:
    """Return the consensus of two conjunctions over one dimension, or None if the others have nothing in common."""
    rest = _intersect(
        {key: values for key, values in one.items() if key != name},
        {key: values for key, values in other.items() if key != name},
    )
    if rest is None:
        return None
    union = one[name] | other[name]
    return rest if union.is_everything else {**rest, name: union}


def is_absorbed_by(one: Conjunction, other: Conjunction) -> bool:
    """Return whether the other conjunction allows everything that this one allows."""
    return all(name in one and one[name].is_subset_of(values) for name, values in other.items())


def _steps(one: ValueSet, other: ValueSet) -> int:
    return 1 + (len(one.values) + len(other.values)) // _VALUES_PER_STEP


def _remove_absorbed(conjunctions: Iterable[Conjunction], budget: StepBudget) -> Conjunctions:
    """Remove the conjunctions that another one implies."""
    given = tuple(conjunctions)
    if len(given) <= 1:
        return given
    remaining: list[Conjunction] = []
    for each in given:
        values = sum(len(allowed.values) for allowed in each.values())
        budget.spend(2 * len(remaining) * (1 + values // _VALUES_PER_STEP))
        if any(is_absorbed_by(each, other) for other in remaining):
            continue
        remaining = [other for other in remaining if not is_absorbed_by(other, each)]
        remaining.append(each)
        if len(remaining) > _MAX_CONJUNCTIONS:
            raise QueryError(
                f"the filter has more than {_MAX_CONJUNCTIONS} alternatives: split the query, or list the values of one "
                "dimension with the operator in"
            )
    return tuple(remaining)


def _sort_key(conjunction: Conjunction) -> list[tuple[str, bool, list[str]]]:
    return [
        (name, values.is_exclusion, _comparable_texts(values.values)) for name, values in sorted(conjunction.items())
    ]


def _comparable_texts(values: Iterable[str | None]) -> list[str]:
    # The prefix keeps None apart from every text that a value could be.
    return sorted(["" if value is None else f"={value}" for value in values])


def sort_values(values: frozenset[str | None]) -> list[str | None]:
    """Sort values as they are written: None first, then texts by their characters."""
    texts = sorted(value for value in values if value is not None)
    return [None, *texts] if None in values else [*texts]

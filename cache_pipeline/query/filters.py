"""Row filters: the form in which they are declared, and the canonical form in which equal filters are equal.

A report file or a query declares a filter as nested predicates in any order, with repetitions (`FilterDeclaration`).
Validation turns the declaration into a `Filter`, and serialization turns the filter back into the simplest declaration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from cache_pipeline.errors import QueryError
from cache_pipeline.query.dnf import (
    MATCH_ALL,
    Conjunction,
    Conjunctions,
    StepBudget,
    ValueSet,
    all_of,
    any_of,
    is_absorbed_by,
    make_condition,
    negate,
    prime_implicants,
    sort_values,
)

_MAX_LEVELS = 8
_MAX_VALUES = 1000
_MAX_TEXT_LENGTH = 512
_SURROGATE = re.compile("[\ud800-\udfff]")


def find_text_problem(text: str) -> str | None:
    """Return why a query may not contain a text, or None if it may."""
    if len(text) > _MAX_TEXT_LENGTH:
        return f"is {len(text)} characters long: write at most {_MAX_TEXT_LENGTH}"
    if "\0" in text:
        return "contains a NUL character: leave it out"
    # JSON may hold half of a pair, but UTF-8 cannot.
    if not text.isascii() and _SURROGATE.search(text):
        return "contains half of a surrogate pair, which is no character: leave it out"
    return None


def _check_text(text: str) -> str:
    if problem := find_text_problem(text):
        raise QueryError(problem)
    return text


def _to_text(value: object) -> str | None:
    """Convert a value to the text that rows contain. JSON numbers and booleans are spelled as in JSON."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise QueryError("contains NaN or infinity, which no dimension can have: leave it out")
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, list | tuple | dict | set):
        raise QueryError("values are texts, numbers, booleans or null, not lists or objects")
    return str(value)


def _to_texts(values: object) -> object:
    if not isinstance(values, list | tuple | set | frozenset):
        return values
    texts = [value if isinstance(value, str) else _to_text(value) for value in values]
    for text in texts:
        if text and (problem := find_text_problem(text)):
            raise QueryError(problem)
    return texts


class Predicate(BaseModel, frozen=True):
    """One condition on a dimension: its value is, or is not, one of ``values``; null means a missing value.

    ``exists`` and ``notExists`` are accepted too, and become ``notIn`` and ``in`` with null.
    """

    model_config = ConfigDict(extra="forbid")

    dimension: Annotated[str, Field(min_length=1), AfterValidator(_check_text)]
    operator: Literal["in", "notIn"] = "in"
    values: Annotated[tuple[str | None, ...], BeforeValidator(_to_texts)] = Field(min_length=1, max_length=_MAX_VALUES)

    @model_validator(mode="before")
    @classmethod
    def _rewrite_existence(cls, data: Any) -> Any:
        operator = data.get("operator") if isinstance(data, dict) else None
        if operator not in ("exists", "notExists") or data.get("values"):
            return data
        return {**data, "operator": "notIn" if operator == "exists" else "in", "values": [None]}

    @property
    def allowed_values(self) -> ValueSet:
        """The values that the dimension may have."""
        return ValueSet(frozenset(self.values), is_exclusion=self.operator == "notIn")


class FilterDeclaration(BaseModel, frozen=True):
    """Predicates and clauses of which all (``and``), any (``or``) or none (``not``) must hold; an empty filter matches every row."""

    model_config = ConfigDict(extra="forbid", title="Filter")

    predicates: Annotated[tuple[Predicate, ...], Field(max_length=_MAX_VALUES)] = ()
    clauses: Annotated[tuple[Clause, ...], Field(max_length=_MAX_VALUES, description="Nested conditions")] = ()
    type: Literal["and", "or", "not"] = "and"

    @property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that it names."""
        return frozenset(each.dimension for each in self.predicates).union(*(each.dimensions for each in self.clauses))

    def to_conjunctions(self, level: int = 1, budget: StepBudget | None = None) -> Conjunctions:
        """Return the rows that match, in disjunctive normal form.

        Args:
            level: The depth of this clause within others.
            budget: The steps that the whole filter may take; the usual number by default.

        Raises:
            QueryError: There are too many alternatives, clauses are nested too deep, or the budget is used up.
        """
        budget = budget or StepBudget()
        if level > _MAX_LEVELS:
            raise QueryError(f"clauses are nested more than {_MAX_LEVELS} deep: flatten them")
        if not (self.predicates or self.clauses):
            return MATCH_ALL
        parts = [make_condition(each.dimension, each.allowed_values) for each in self.predicates]
        parts += [each.to_conjunctions(level + 1, budget) for each in self.clauses]
        if self.type == "and":
            return all_of(parts, budget)
        return any_of(parts, budget) if self.type == "or" else negate(any_of(parts, budget), budget)


class Clause(FilterDeclaration, frozen=True):
    """Conditions nested within others. Unlike a whole filter, a clause must have some."""

    model_config = ConfigDict(title="Clause")

    @model_validator(mode="after")
    def _check_not_empty(self) -> Clause:
        if not (self.predicates or self.clauses):
            raise QueryError("a clause without predicates has no meaning: leave it out")
        return self


@dataclass(frozen=True)
class Filter:
    """A filter in canonical form; two filters are equal exactly if they match the same rows.

    A pydantic field of this type is parsed from a `FilterDeclaration` and serialized as one.

    Attributes:
        conjunctions: The prime implicants of the filter in canonical order, as `from_conjunctions` computes them.
    """

    conjunctions: Conjunctions = MATCH_ALL

    @classmethod
    def from_conjunctions(cls, conjunctions: Conjunctions) -> Filter:
        """Return the filter that matches any of the conjunctions.

        Raises:
            QueryError: There is none, so no row can match.
        """
        if not conjunctions:
            raise QueryError("the filter contradicts itself, no row can match it: take out one of its conditions")
        return cls(prime_implicants(conjunctions))

    @classmethod
    def parse(cls, value: object) -> Filter:
        """Parse a declared filter.

        Raises:
            ValidationError: The declaration is invalid; the error names the place and the problem.
        """
        return _ADAPTER.validate_python(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Parse declarations into canonical filters, and serialize canonical filters as declarations."""
        return core_schema.no_info_wrap_validator_function(
            cls._validate,
            handler(FilterDeclaration),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda filters: filters.declaration),
        )

    @classmethod
    def _validate(cls, value: Any, parse_declaration: Callable[[Any], FilterDeclaration]) -> Filter:
        if isinstance(value, cls):
            return value
        return cls.from_conjunctions(parse_declaration(value).to_conjunctions())

    @cached_property
    def declaration(self) -> FilterDeclaration:
        """The simplest declaration of this filter.

        It is ``and`` with predicates of different dimensions, or ``or`` with predicates of different dimensions, or ``or``
        with clauses that are each ``and`` with predicates.
        """
        alternatives = [_to_predicates(each) for each in self.conjunctions]
        kind = "and" if len(alternatives) == 1 else "or"
        if kind == "and" or all(len(each) == 1 for each in alternatives):
            flat = tuple(predicate for each in alternatives for predicate in each)
            return FilterDeclaration(type=kind, predicates=flat)
        return FilterDeclaration(type=kind, clauses=tuple(Clause(predicates=each) for each in alternatives))

    @cached_property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that the filter has conditions on."""
        return frozenset().union(*self.conjunctions)

    @property
    def canonical_form(self) -> list[list[list[object]]]:
        """The form that keys are made from: alternatives, each a list of dimension, operator and values."""
        return [
            [
                [name, "notIn" if values.is_exclusion else "in", sort_values(values.values)]
                for name, values in sorted(conjunction.items())
            ]
            for conjunction in self.conjunctions
        ]

    def __hash__(self) -> int:
        """Return a hash that does not depend on the order of conditions, as equality does not."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(frozenset(each.items()) for each in self.conjunctions))

    def __bool__(self) -> bool:
        """Return whether the filter leaves out any row."""
        return self.conjunctions != MATCH_ALL

    def intersect(self, other: Filter) -> Filter:
        """Return the filter that matches the rows that both match.

        Raises:
            QueryError: No row can match both.
        """
        if not other or not self:
            return self if self else other
        return Filter.from_conjunctions(all_of((self.conjunctions, other.conjunctions)))

    def is_subset_of(self, other: Filter) -> bool:
        """Return whether every row that this filter matches is matched by the other one too."""
        # A conjunction within a filter lies within one of the filter's prime implicants, because these are as wide as can be.
        return all(any(is_absorbed_by(each, wider) for wider in other.conjunctions) for each in self.conjunctions)

    def rename_dimensions(self, names: Mapping[str, str]) -> Filter:
        """Return the same filter with some dimensions renamed.

        Raises:
            QueryError: Two dimensions get one name, and then no row can match.
        """
        renamed = (
            all_of(make_condition(names.get(name, name), values) for name, values in each.items())
            for each in self.conjunctions
        )
        return Filter.from_conjunctions(any_of(renamed))

    def named_values(self, dimension: str) -> tuple[str | None, ...] | None:
        """Return the only values that a dimension can have under this filter, or None if they are not limited."""
        named: frozenset[str | None] = frozenset()
        for conjunction in self.conjunctions:
            values = conjunction.get(dimension)
            if values is None or values.is_exclusion:
                return None
            named |= values.values
        return tuple(sort_values(named))


def _to_predicates(conjunction: Conjunction) -> tuple[Predicate, ...]:
    return tuple(
        Predicate(
            dimension=name,
            operator="notIn" if values.is_exclusion else "in",
            values=tuple(sort_values(values.values)),
        )
        for name, values in sorted(conjunction.items())
    )


_ADAPTER = TypeAdapter(Filter)

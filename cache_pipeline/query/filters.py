"""Row filters as people and dashboards write them: nested, in any order, with repetitions; their form is checked here."""

from __future__ import annotations

import math
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
    ValueSet,
    all_of,
    any_of,
    make_condition,
    negate,
    prime_implicants,
    sort_values,
)

_MOST_LEVELS = 8
_MOST_VALUES = 1000
_LONGEST_TEXT = 512


def _checked_text(text: str) -> str:
    if "\0" in text:
        raise QueryError("holds a NUL character, which no dimension can have: leave it out")
    if len(text) > _LONGEST_TEXT:
        raise QueryError(f"is {len(text)} characters long, and at most {_LONGEST_TEXT} make sense")
    return text


def _text(value: object) -> str | None:
    """A value as the text that rows hold; JSON numbers and booleans are spelled as JSON spells them."""
    if isinstance(value, str):
        return _checked_text(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise QueryError("holds NaN or infinity, which no dimension can have")
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, list | tuple | dict | set):
        raise QueryError("values are texts, numbers, booleans or null, not lists or objects")
    return _checked_text(str(value))


def _texts(values: object) -> object:
    return [_text(value) for value in values] if isinstance(values, list | tuple | set | frozenset) else values


class Predicate(BaseModel, frozen=True):
    """One condition on a dimension: its value is, or is not, one of ``values``; null stands for having none.

    ``exists`` and ``notExists`` are understood too, and become ``notIn`` and ``in`` with null.
    """

    model_config = ConfigDict(extra="forbid")

    dimension: Annotated[str, Field(min_length=1), AfterValidator(_checked_text)]
    operator: Literal["in", "notIn"] = "in"
    values: Annotated[tuple[str | None, ...], BeforeValidator(_texts)] = Field(min_length=1, max_length=_MOST_VALUES)

    @model_validator(mode="before")
    @classmethod
    def _existence(cls, data: Any) -> Any:
        operator = data.get("operator") if isinstance(data, dict) else None
        if operator not in ("exists", "notExists") or data.get("values"):
            return data
        return {**data, "operator": "notIn" if operator == "exists" else "in", "values": [None]}

    @property
    def allowed_values(self) -> ValueSet:
        """The values that the dimension may have."""
        return ValueSet(frozenset(self.values), is_exclusion=self.operator == "notIn")


class FilterDeclaration(BaseModel, frozen=True):
    """Conditions and clauses of which all (``and``), any (``or``) or none (``not``) must hold; without any, every row is meant."""

    model_config = ConfigDict(extra="forbid", title="Filter")

    predicates: Annotated[tuple[Predicate, ...], Field(max_length=_MOST_VALUES)] = ()
    clauses: Annotated[tuple[Clause, ...], Field(max_length=_MOST_VALUES, description="Nested conditions")] = ()
    type: Literal["and", "or", "not"] = "and"

    def to_conjunctions(self, level: int = 1) -> Conjunctions:
        """The rows that are meant.

        Args:
            level: how deep this stands within others.

        Raises:
            QueryError: the alternatives are too many, or nested deeper than anybody means.
        """
        if level > _MOST_LEVELS:
            raise QueryError(f"clauses are nested more than {_MOST_LEVELS} deep: flatten them")
        if not (self.predicates or self.clauses):
            return MATCH_ALL
        parts = [make_condition(each.dimension, each.allowed_values) for each in self.predicates]
        parts += [each.to_conjunctions(level + 1) for each in self.clauses]
        if self.type == "and":
            return all_of(parts)
        return any_of(parts) if self.type == "or" else negate(any_of(parts))


class Clause(FilterDeclaration, frozen=True):
    """Conditions within others; unlike a whole filter, it must have some."""

    model_config = ConfigDict(title="Clause")

    @model_validator(mode="after")
    def _says_something(self) -> Clause:
        if not (self.predicates or self.clauses):
            raise QueryError("a clause without predicates says nothing: leave it out")
        return self


@dataclass(frozen=True)
class Filter:
    """Which rows are meant; two filters are equal exactly when they mean the same.

    A field of this type is read from what :class:`FilterDeclaration` describes.

    Attributes:
        boxes: the largest ones that it is the union of, in their order: what :meth:`of` makes of any boxes.
    """

    conjunctions: Conjunctions = MATCH_ALL

    @classmethod
    def from_conjunctions(cls, boxes: Conjunctions) -> Filter:
        """The filter that allows those boxes.

        Raises:
            QueryError: they are none, so that no row can match.
        """
        if not boxes:
            raise QueryError("the filter contradicts itself, no row can match it: take out one of its conditions")
        return cls(prime_implicants(boxes))

    @classmethod
    def parse(cls, said: object) -> Filter:
        """A filter as it was written.

        Raises:
            ValidationError: naming what is wrong with it, and where.
        """
        return _FILTER.validate_python(said)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read what is written, and write what is canonical."""
        return core_schema.no_info_wrap_validator_function(
            cls._read,
            handler(FilterDeclaration),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda filters: filters.declaration),
        )

    @classmethod
    def _read(cls, said: Any, written: Callable[[Any], FilterDeclaration]) -> Filter:
        return said if isinstance(said, cls) else cls.from_conjunctions(written(said).to_conjunctions())

    @cached_property
    def declaration(self) -> FilterDeclaration:
        """How it is written.

        Either ``and`` with predicates of different dimensions, or ``or`` with predicates of different dimensions, or
        ``or`` with clauses that are each ``and`` with predicates.
        """
        alternatives = [_predicates(box) for box in self.conjunctions]
        kind = "and" if len(alternatives) == 1 else "or"
        if kind == "and" or all(len(each) == 1 for each in alternatives):
            flat = tuple(predicate for each in alternatives for predicate in each)
            return FilterDeclaration(type=kind, predicates=flat)
        return FilterDeclaration(type=kind, clauses=tuple(Clause(predicates=each) for each in alternatives))

    @cached_property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that are spoken of."""
        return frozenset().union(*self.conjunctions)

    @property
    def canonical_form(self) -> list[list[list[object]]]:
        """What keys are made of: alternatives, each with its conditions as dimension, operator and values."""
        return [
            [
                [name, "notIn" if values.is_exclusion else "in", sort_values(values.values)]
                for name, values in sorted(box.items())
            ]
            for box in self.conjunctions
        ]

    def __hash__(self) -> int:
        """As equal filters have it, whatever the order of their conditions."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(frozenset(box.items()) for box in self.conjunctions))

    def __bool__(self) -> bool:
        """Whether any row is left out."""
        return self.conjunctions != MATCH_ALL

    def intersect(self, other: Filter) -> Filter:
        """Rows that both filters let through.

        Raises:
            QueryError: there can be none.
        """
        if not other or not self:
            return self if self else other
        return Filter.from_conjunctions(all_of((self.conjunctions, other.conjunctions)))

    def rename_dimensions(self, names: Mapping[str, str]) -> Filter:
        """The same conditions, some of them on dimensions of other names.

        Raises:
            QueryError: two dimensions become one, and no row can match.
        """
        renamed = (
            all_of(make_condition(names.get(name, name), values) for name, values in box.items())
            for box in self.conjunctions
        )
        return Filter.from_conjunctions(any_of(renamed))

    def named_values(self, dimension: str) -> tuple[str | None, ...] | None:
        """The only values that ``dimension`` can have under this filter, or None when it does not say."""
        named: frozenset[str | None] = frozenset()
        for box in self.conjunctions:
            values = box.get(dimension)
            if values is None or values.is_exclusion:
                return None
            named |= values.values
        return tuple(sort_values(named))


def _predicates(box: Conjunction) -> tuple[Predicate, ...]:
    return tuple(
        Predicate(
            dimension=name,
            operator="notIn" if values.is_exclusion else "in",
            values=tuple(sort_values(values.values)),
        )
        for name, values in sorted(box.items())
    )


_FILTER = TypeAdapter(Filter)

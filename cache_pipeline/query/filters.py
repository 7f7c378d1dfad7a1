"""Row filters in one canonical form, however they were nested, ordered or repeated (G6)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cache_pipeline.query.boxes import (
    EVERYTHING,
    Boxes,
    ValueSet,
    condition,
    either,
    every,
    inverse,
    largest,
    ordered_texts,
)
from cache_pipeline.query.errors import QueryError

_MOST_LEVELS = 8
_MOST_VALUES = 1000
_LONGEST_TEXT = 512


def _checked_text(text: str) -> str:
    if "\0" in text:
        raise QueryError("holds a NUL character, which no dimension can have: leave it out")
    if len(text) > _LONGEST_TEXT:
        raise QueryError(f"is {len(text)} characters long, and at most {_LONGEST_TEXT} make sense")
    return text


def _value(value: object) -> str | None:
    """A value as the text that rows hold; JSON numbers and booleans are spelled as JSON spells them."""
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


def _in_order(values: Iterable[str | None]) -> tuple[str | None, ...]:
    return tuple(text[1:] if text else None for text in ordered_texts(values))


def _sorted_unique(values: object) -> object:
    if isinstance(values, list | tuple | set | frozenset):
        return _in_order({_value(value) for value in values})
    return values


class Predicate(BaseModel, frozen=True):
    """One condition on a dimension: its value is, or is not, one of ``values``; null stands for having none.

    ``exists`` and ``notExists`` are understood too, and become ``notIn`` and ``in`` with null.
    """

    model_config = ConfigDict(extra="forbid")

    dimension: Annotated[str, Field(min_length=1), AfterValidator(_checked_text)]
    operator: Literal["in", "notIn"] = "in"
    values: Annotated[tuple[str | None, ...], BeforeValidator(_sorted_unique)] = Field(
        min_length=1, max_length=_MOST_VALUES
    )

    @model_validator(mode="before")
    @classmethod
    def _existence(cls, data: Any) -> Any:
        said: Mapping[str, object] = data if isinstance(data, dict) else {}
        if said.get("operator") not in ("exists", "notExists") or said.get("values"):
            return data
        return {**said, "operator": "notIn" if said["operator"] == "exists" else "in", "values": [None]}

    @property
    def allowed(self) -> ValueSet:
        """The values that the dimension may have."""
        return ValueSet(frozenset(self.values), excluding=self.operator == "notIn")


class Clause(BaseModel, frozen=True):
    """Conditions and clauses of which all (``and``), any (``or``) or none (``not``) must hold."""

    model_config = ConfigDict(extra="forbid")

    predicates: Annotated[tuple[Predicate, ...], Field(max_length=_MOST_VALUES)] = ()
    clauses: Annotated[tuple[Clause, ...], Field(max_length=_MOST_VALUES)] = ()
    type: Literal["and", "or", "not"] = "and"

    @model_validator(mode="after")
    def _says_something(self) -> Clause:
        if not (self.predicates or self.clauses):
            raise QueryError("a clause without predicates says nothing: leave it out")
        return self


def _boxes(kind: str, predicates: Iterable[Predicate], clauses: Iterable[Clause]) -> Boxes:
    parts = [condition(each.dimension, each.allowed) for each in predicates]
    parts += [_boxes(each.type, each.predicates, each.clauses) for each in clauses]
    if kind == "and":
        return every(parts)
    return either(parts) if kind == "or" else inverse(either(parts))


def _predicate(dimension: str, values: ValueSet) -> Predicate:
    return Predicate.model_construct(
        dimension=dimension,
        operator="notIn" if values.excluding else "in",
        values=_in_order(values.values),
    )


class Filter(BaseModel, frozen=True):
    """Which rows are meant.

    What is read may be nested at will; what is kept is canonical, so that filters are equal when they mean the same:
    either ``and`` with predicates of different dimensions, or ``or`` with predicates of different dimensions, or ``or``
    with clauses that are each ``and`` with predicates. No predicates and no clauses mean every row.
    """

    model_config = ConfigDict(extra="forbid")

    predicates: Annotated[tuple[Predicate, ...], Field(max_length=_MOST_VALUES)] = ()
    clauses: Annotated[tuple[Clause, ...], Field(max_length=_MOST_VALUES, description="Nested conditions")] = ()
    type: Literal["and", "or", "not"] = "and"

    @model_validator(mode="before")
    @classmethod
    def _not_too_deep(cls, data: Any) -> Any:
        level, levels = [data], 0
        while level:
            levels += 1
            if levels > _MOST_LEVELS:
                raise QueryError(f"clauses are nested more than {_MOST_LEVELS} deep: flatten them")
            level = [clause for each in level for clause in _clauses_of(each)]
        return data

    @model_validator(mode="after")
    def _canonical(self) -> Filter:
        if self.predicates or self.clauses:
            _write(self, largest(_boxes(self.type, self.predicates, self.clauses)))
        else:
            _write(self, EVERYTHING)
        return self

    @classmethod
    def of(cls, boxes: Boxes) -> Filter:
        """The filter that allows those boxes.

        Raises:
            QueryError: they are none, so that no row can match.
        """
        made = cls.model_construct()
        _write(made, largest(boxes))
        return made

    @cached_property
    def boxes(self) -> Boxes:
        """The largest boxes that the filter is the union of."""
        if self.clauses or self.type == "or":
            alternatives = [each.predicates for each in self.clauses] or [(each,) for each in self.predicates]
            return tuple({each.dimension: each.allowed for each in one} for one in alternatives)
        return ({each.dimension: each.allowed for each in self.predicates},)

    @cached_property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that are spoken of, in order."""
        return tuple(sorted({name for box in self.boxes for name in box}))

    @property
    def meaning(self) -> list[list[list[object]]]:
        """What keys are made of: alternatives, each with its conditions as dimension, operator and values."""
        alternatives = [each.predicates for each in self.clauses]
        if not alternatives:
            alternatives = [self.predicates] if self.type == "and" else [(each,) for each in self.predicates]
        return [[[each.dimension, each.operator, list(each.values)] for each in one] for one in alternatives]

    def __bool__(self) -> bool:
        """Whether any row is left out."""
        return bool(self.predicates or self.clauses)

    def also(self, other: Filter) -> Filter:
        """Rows that both filters let through.

        Raises:
            QueryError: there can be none.
        """
        if not other or not self:
            return self if self else other
        return Filter.of(every((self.boxes, other.boxes)))

    def renamed(self, names: Mapping[str, str]) -> Filter:
        """The same conditions on dimensions of other names.

        Raises:
            QueryError: two dimensions become one, and no row can match.
        """
        if all(name == other for name, other in names.items()):
            return self
        renamed = (every(condition(names[name], values) for name, values in box.items()) for box in self.boxes)
        return Filter.of(either(renamed))

    def named_values(self, dimension: str) -> tuple[str | None, ...] | None:
        """The only values that ``dimension`` can have under this filter, or None when it does not say."""
        allowed = [box.get(dimension) for box in self.boxes]
        named: set[str | None] = set()
        for values in allowed:
            if values is None or values.excluding:
                return None
            named |= values.values
        return _in_order(named)


def _clauses_of(data: object) -> list[object]:
    nested = data.get("clauses") if isinstance(data, dict) else None
    return list(nested) if isinstance(nested, list | tuple) else []


def _write(filters: Filter, boxes: Boxes) -> None:
    """Make a filter say exactly those boxes, which must be the largest ones."""
    if not boxes:
        raise QueryError("the filter contradicts itself, no row can match it: take out one of its conditions")
    # Making a predicate costs more than all the rest; most filters say already what is canonical.
    given = {(each.dimension, each.allowed): each for each in filters.predicates}
    alternatives = [
        tuple(given.get((name, box[name])) or _predicate(name, box[name]) for name in sorted(box)) for box in boxes
    ]
    simple = len(alternatives) == 1 or all(len(each) == 1 for each in alternatives)
    fields: dict[str, object] = {
        "predicates": tuple(predicate for each in alternatives for predicate in each) if simple else (),
        "clauses": ()
        if simple
        else tuple(Clause.model_construct(type="and", predicates=each, clauses=()) for each in alternatives),
        "type": "and" if len(alternatives) == 1 else "or",
    }
    for name, value in fields.items():
        # Frozen for everybody else; this is still part of making it.
        object.__setattr__(filters, name, value)

"""Row filters as people and dashboards write them: nested, in any order, with repetitions; their form is checked here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cache_pipeline.query.boxes import EVERYTHING, Boxes, ValueSet, condition, either, every, inverse
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
    def allowed(self) -> ValueSet:
        """The values that the dimension may have."""
        return ValueSet(frozenset(self.values), excluding=self.operator == "notIn")


class WrittenFilter(BaseModel, frozen=True):
    """Conditions and clauses of which all (``and``), any (``or``) or none (``not``) must hold; without any, every row is meant."""

    model_config = ConfigDict(extra="forbid", title="Filter")

    predicates: Annotated[tuple[Predicate, ...], Field(max_length=_MOST_VALUES)] = ()
    clauses: Annotated[tuple[Clause, ...], Field(max_length=_MOST_VALUES, description="Nested conditions")] = ()
    type: Literal["and", "or", "not"] = "and"

    def boxes(self, level: int = 1) -> Boxes:
        """The rows that are meant.

        Args:
            level: how deep this stands within others.

        Raises:
            QueryError: the alternatives are too many, or nested deeper than anybody means.
        """
        if level > _MOST_LEVELS:
            raise QueryError(f"clauses are nested more than {_MOST_LEVELS} deep: flatten them")
        if not (self.predicates or self.clauses):
            return EVERYTHING
        parts = [condition(each.dimension, each.allowed) for each in self.predicates]
        parts += [each.boxes(level + 1) for each in self.clauses]
        if self.type == "and":
            return every(parts)
        return either(parts) if self.type == "or" else inverse(either(parts))


class Clause(WrittenFilter, frozen=True):
    """Conditions within others; unlike a whole filter, it must have some."""

    model_config = ConfigDict(title="Clause")

    @model_validator(mode="after")
    def _says_something(self) -> Clause:
        if not (self.predicates or self.clauses):
            raise QueryError("a clause without predicates says nothing: leave it out")
        return self

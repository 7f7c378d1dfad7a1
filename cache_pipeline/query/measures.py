"""Measures: figures that follow from sums, such as an average handle time, declared once and computed the same way everywhere.

A measure is a sum of columns, or a sum divided by another. It is always computed from sums, never from other measures: the
average of averages is no average. Division by zero gives null, and so does a sum with an unknown (null) part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from cache_pipeline.errors import QueryError

_TERM = re.compile(r"\s*([+-]?)\s*([A-Za-z_]\w*)", re.ASCII)
_GRAMMAR = "write a sum of columns, or one divided by another: (answered_count - n_over_sla) / n_offered"
#: A sum: each column with 1 or -1.
Sum = tuple[tuple[str, int], ...]


#: What a measure's value is, for those who show it: a number of events, a part of a whole from 0 to 1, a time in milliseconds, or
#: anything else.
MeasureKind = Literal["count", "share", "duration", "number"]


class Measure(BaseModel, frozen=True):
    """One measure, as a declaration or a vendor defines it."""

    model_config = ConfigDict(extra="forbid")

    formula: str = Field(
        min_length=1,
        max_length=500,
        description="A sum of columns, or one divided by another: t_handle_sum / t_handle_count",
    )
    kind: MeasureKind = Field(default="number", description="What its value is; durations are in milliseconds")
    label: str = Field(default="", max_length=60, description="Its name for people; default: from its name")
    description: str = Field(default="", max_length=300, description="What it means, in one sentence")
    better: int = Field(default=0, strict=True, ge=-1, le=1, description="1: more is better, -1: less is, 0: neither")

    @classmethod
    def count(cls, formula: str, label: str, description: str, better: int = 0) -> Self:
        """Return a measure that counts events."""
        return cls(formula=formula, kind="count", label=label, description=description, better=better)

    @classmethod
    def share(cls, formula: str, label: str, description: str, better: int = 0) -> Self:
        """Return a measure that is a part of a whole."""
        return cls(formula=formula, kind="share", label=label, description=description, better=better)

    @classmethod
    def duration(cls, formula: str, label: str, description: str, better: int = 0) -> Self:
        """Return a measure that is a time in milliseconds."""
        return cls(formula=formula, kind="duration", label=label, description=description, better=better)

    @field_validator("formula")
    @classmethod
    def _check_formula(cls, formula: str) -> str:
        parse_formula(formula)
        return formula

    @cached_property
    def over(self) -> Sum:
        """What is summed up."""
        return parse_formula(self.formula)[0]

    @cached_property
    def under(self) -> Sum:
        """What the sum is divided by; empty if it is not divided."""
        return parse_formula(self.formula)[1]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it is computed from."""
        return tuple(dict.fromkeys(name for name, _ in (*self.over, *self.under)))

    @property
    def is_divided(self) -> bool:
        """Whether it is a sum divided by another."""
        return bool(self.under)

    def value(self, sums: Mapping[str, float | None]) -> float | None:
        """Return its value, given the sum of each of its columns; None if one is unknown, or the divisor is zero."""
        over = _total(self.over, sums)
        if not self.under or over is None:
            return over
        under = _total(self.under, sums)
        return over / under if under else None


def _read_measure(value: object) -> object:
    return {"formula": value} if isinstance(value, str) else value


#: The measures of a report by name; None takes a measure of the vendor away.
Measures = Mapping[
    Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], Annotated[Measure | None, BeforeValidator(_read_measure)]
]


@lru_cache(maxsize=1024)
def parse_formula(formula: str) -> tuple[Sum, Sum]:
    """Return the sum that is divided, and the sum that it is divided by; the latter is empty without a division.

    Raises:
        QueryError: It is neither a sum of columns nor one divided by another.
    """
    sides = formula.split("/")
    if len(sides) > 2:
        raise QueryError(f"{formula[:80]!r} divides more than once: {_GRAMMAR}")
    over, *under = [_parse_sum(side, formula, is_divided=len(sides) == 2) for side in sides]
    return over, under[0] if under else ()


def _parse_sum(side: str, formula: str, *, is_divided: bool) -> Sum:
    text = side.strip()
    is_enclosed = text.startswith("(") and text.endswith(")")
    inner = text[1:-1] if is_enclosed else text
    terms: list[tuple[str, int]] = []
    position = 0
    while position < len(inner.rstrip()):
        match = _TERM.match(inner, position)
        if match is None or (terms and not match[1]):
            raise QueryError(f"{formula[:80]!r} cannot be read at {inner[position:].strip()[:40]!r}: {_GRAMMAR}")
        terms.append((match[2], -1 if match[1] == "-" else 1))
        position = match.end()
    if not terms:
        raise QueryError(f"{formula[:80]!r} lacks a column: {_GRAMMAR}")
    if is_divided and len(terms) > 1 and not is_enclosed:
        raise QueryError(f"{formula[:80]!r} needs parentheses around {inner[:40]!r}, which is divided as a whole")
    return tuple(terms)


def _total(terms: Sum, sums: Mapping[str, float | None]) -> float | None:
    total = 0.0
    for name, sign in terms:
        value = sums.get(name)
        if value is None:
            return None
        total += sign * value
    return total


def describe_measure(measure: Measure) -> str:
    """Return what a measure means, for a column's comment."""
    unit = " in milliseconds" if measure.kind == "duration" else ""
    return f"{measure.description or measure.label}: {measure.formula}{unit}".removeprefix(": ")


def label_of(name: str, measure: Measure) -> str:
    """Return the name of a measure for people."""
    return measure.label or name.replace("_", " ").capitalize()

"""Row filters in one canonical form, whatever order or repetition they were written in (G6)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def _sorted_unique(values: object) -> object:
    if isinstance(values, list | tuple | set | frozenset):
        return tuple(sorted({str(value) for value in values}))
    return values


class Predicate(BaseModel, frozen=True):
    """One condition on a dimension: its value is, or is not, one of ``values``."""

    model_config = ConfigDict(extra="forbid")

    dimension: str = Field(min_length=1)
    operator: Literal["in", "notIn"] = "in"
    values: Annotated[tuple[str, ...], BeforeValidator(_sorted_unique)] = Field(min_length=1)


def _canonical_predicates(predicates: tuple[Predicate, ...]) -> tuple[Predicate, ...]:
    return tuple(
        sorted(set(predicates), key=lambda predicate: (predicate.dimension, predicate.operator, predicate.values))
    )


class Filter(BaseModel, frozen=True):
    """Predicates that must all (``and``) or any (``or``) hold."""

    model_config = ConfigDict(extra="forbid")

    predicates: Annotated[tuple[Predicate, ...], AfterValidator(_canonical_predicates)] = ()
    type: Literal["and", "or"] = "and"

    @field_validator("type")
    @classmethod
    def _same_for_one(cls, kind: Literal["and", "or"], info: ValidationInfo) -> Literal["and", "or"]:
        return kind if len(info.data.get("predicates", ())) > 1 else "and"

    def named_values(self, dimension: str) -> tuple[str, ...] | None:
        """The only values that ``dimension`` can have under this filter, or None when it does not say."""
        if self.type == "or":
            return None
        named = [set(p.values) for p in self.predicates if p.dimension == dimension and p.operator == "in"]
        return tuple(sorted(set.intersection(*named))) if named else None

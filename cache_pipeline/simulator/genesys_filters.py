"""The vendor's filters: two levels of and / or over predicates, parsed strictly into conditions on calls.

Predicates on metrics, properties and ranges, which the vendor supports, are refused here with a 400 that names them.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cache_pipeline.simulator import genesys_vocabulary as words
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.filters import Compound, Condition, Membership, has_value, is_one_of, negated
from cache_pipeline.simulator.organisation import Organisation


class Predicate(BaseModel):
    """One condition, with the vendor's field names."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["dimension", "property", "metric"] | None = None
    dimension: str | None = None
    metric: str | None = None
    property_type: Annotated[str | None, Field(alias="propertyType")] = None
    property: str | None = None
    operator: Literal["matches", "exists", "notExists"] = "matches"
    value: str | None = None
    range: dict[str, Any] | None = None


class Clause(BaseModel):
    """Predicates, combined."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    predicates: Annotated[list[Predicate], Field(min_length=1)]


class Filter(BaseModel):
    """Clauses and predicates, combined."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    clauses: list[Clause] = []
    predicates: list[Predicate] = []

    def all_predicates(self) -> list[Predicate]:
        """Return the predicates of both levels."""
        return [*self.predicates, *(predicate for clause in self.clauses for predicate in clause.predicates)]


def unimplemented(feature: str) -> ApiError:
    """Return a 400 for a feature of the vendor that this simulator does not implement."""
    return bad_request(f"{feature} is known to the vendor but not implemented by this simulator")


def _condition(
    predicate: Predicate, organisation: Organisation, known: Set[str], special: Mapping[str, Membership]
) -> Condition:
    if predicate.type in ("property", "metric") or predicate.metric or predicate.property or predicate.property_type:
        raise unimplemented("a predicate on a metric or a property")
    if predicate.range is not None:
        raise unimplemented("a predicate with a range")
    dimension = predicate.dimension
    if dimension is None:
        raise ApiError(400, "constraint.validation", "filter: a predicate needs a dimension")
    if dimension not in known:
        raise invalid_value(dimension, "dimension", ", ".join(sorted(known)))
    if predicate.operator != "matches":
        present = special.get(dimension) or has_value(organisation, dimension)
        return present if predicate.operator == "exists" else negated(present)
    if dimension in special:
        raise unimplemented(f"a predicate that matches {dimension}")
    if predicate.value is None:
        raise ApiError(400, "constraint.validation", f"filter: the predicate on {dimension} needs a value")
    if dimension == "mediaType" and predicate.value not in words.MEDIA_TYPES:
        raise invalid_value(predicate.value, "mediaType", ", ".join(sorted(words.MEDIA_TYPES)))
    return is_one_of(organisation, dimension, [predicate.value])


def _combine(kind: str, parts: Iterable[Condition]) -> Compound:
    return Compound(requires_all=kind == "and", parts=tuple(parts))


def build_condition(
    filter_: Filter | None,
    organisation: Organisation,
    known: Set[str],
    special: Mapping[str, Membership] | None = None,
) -> Condition | None:
    """Return the condition of a filter; None without one.

    Args:
        filter_: The filter.
        organisation: The organisation whose dimensions are used.
        known: The dimensions that may be filtered by.
        special: Those of them that calls do not have, each with the condition that it has a value.

    Raises:
        ApiError: 400, with the vendor's message.
    """
    if filter_ is None:
        return None
    special = special or {}

    def read(predicates: list[Predicate]) -> list[Condition]:
        return [_condition(predicate, organisation, known, special) for predicate in predicates]

    clauses = [_combine(clause.type, read(clause.predicates)) for clause in filter_.clauses]
    return _combine(filter_.type, (*clauses, *read(filter_.predicates)))


def all_of(*conditions: Condition | None) -> Condition | None:
    """Return the condition that all given conditions hold; None if all are None."""
    present = tuple(condition for condition in conditions if condition is not None)
    return Compound(requires_all=True, parts=present) if present else None

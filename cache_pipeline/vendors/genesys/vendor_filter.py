"""Our filter in the vendor's two levels."""

from __future__ import annotations

from collections.abc import Iterable

from cache_pipeline.query.filters import Filter, Predicate


def all_predicates(filters: Filter) -> list[Predicate]:
    """The predicates of all levels."""
    written = filters.declaration
    return [*written.predicates, *(each for clause in written.clauses for each in clause.predicates)]


def review_filters(filters: Filter) -> Iterable[tuple[str, str]]:
    """What the vendor's filters cannot say."""
    predicates = all_predicates(filters)
    if any(each.operator == "notIn" and each.values != (None,) for each in predicates):
        yield "filters", "Genesys has no notIn: list the values to keep with operator in"
    elif filters.declaration.clauses and any(len(each.values) > 1 for each in predicates):
        yield (
            "filters",
            "Genesys has two levels of conditions, and this filter needs three: within clauses joined by or, give each "
            "predicate one value",
        )


def _matches(predicate: Predicate) -> list[dict[str, object]]:
    """One predicate of the vendor's for each value; any of them must hold."""
    if predicate.operator == "notIn":
        return [{"dimension": predicate.dimension, "operator": "exists"}]
    return [
        {"dimension": predicate.dimension, "operator": "notExists"}
        if value is None
        else {"dimension": predicate.dimension, "operator": "matches", "value": value}
        for value in predicate.values
    ]


def vendor_filter(filters: Filter) -> dict[str, object]:
    """Or-ed over the values of each predicate, or and-ed over each alternative."""
    written = filters.declaration
    if written.clauses:
        joined = [
            ("and", [found for each in clause.predicates for found in _matches(each)]) for clause in written.clauses
        ]
    else:
        joined = [("or", _matches(each)) for each in written.predicates]
    return {"type": written.type, "clauses": [{"type": kind, "predicates": found} for kind, found in joined]}

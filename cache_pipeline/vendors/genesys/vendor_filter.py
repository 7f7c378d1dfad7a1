"""A report's filter in the form of Genesys queries, which have two levels of conditions."""

from __future__ import annotations

from collections.abc import Iterable

from cache_pipeline.query.filters import Filter, Predicate


def all_predicates(filters: Filter) -> list[Predicate]:
    """Return the predicates of all levels."""
    declaration = filters.declaration
    return [*declaration.predicates, *(predicate for clause in declaration.clauses for predicate in clause.predicates)]


def check_filters(filters: Filter) -> Iterable[tuple[str, str]]:
    """Yield conditions that the vendor's filters cannot express, as (field, problem)."""
    predicates = all_predicates(filters)
    if any(predicate.operator == "notIn" and predicate.values != (None,) for predicate in predicates):
        yield "filters", "Genesys has no operator notIn; list the values to include with operator in"
    elif filters.declaration.clauses and any(len(predicate.values) > 1 for predicate in predicates):
        yield (
            "filters",
            "this filter needs three levels of conditions and Genesys has two; in clauses joined by or, give each predicate "
            "one value",
        )


def _matches(predicate: Predicate) -> list[dict[str, object]]:
    """Return one vendor predicate for each value, of which any must hold."""
    if predicate.operator == "notIn":
        return [{"dimension": predicate.dimension, "operator": "exists"}]
    return [
        {"dimension": predicate.dimension, "operator": "notExists"}
        if value is None
        else {"dimension": predicate.dimension, "operator": "matches", "value": value}
        for value in predicate.values
    ]


def vendor_filter(filters: Filter) -> dict[str, object]:
    """Return the vendor's filter: one or-clause for each predicate, or one and-clause for each clause."""
    declaration = filters.declaration
    if declaration.clauses:
        clauses = [
            ("and", [match for predicate in clause.predicates for match in _matches(predicate)])
            for clause in declaration.clauses
        ]
    else:
        clauses = [("or", _matches(predicate)) for predicate in declaration.predicates]
    return {
        "type": declaration.type,
        "clauses": [{"type": kind, "predicates": predicates} for kind, predicates in clauses],
    }

"""The queries about the present that are answered in Genesys Cloud's own form, from what the vendor answered for all callers.

Groups without a medium, which are of users, belong to a query if one of their queue's media does; the vendor does not document that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.dnf import ValueSet
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.payload import read_names, read_object, reject_unknown_fields
from cache_pipeline.vendors.genesys.aggregates import SPLIT_DIMENSION
from cache_pipeline.vendors.genesys.live_kinds import LIVE_KINDS
from cache_pipeline.vendors.genesys.observations import OBSERVATION_PATHS
from cache_pipeline.vendors.genesys.query_payload import read_vendor_filter
from cache_pipeline.vendors.served import ObservationPath, ObservationQuery

_FIELDS = frozenset({"filter", "metrics", "detailMetrics"})


def _read(query_type: str, body: object) -> ObservationQuery:
    """Read the body of a query.

    Raises:
        InvalidQuery: A field is wrong; the error names the field, the problem and the remedy.
    """
    kind = LIVE_KINDS[query_type]
    fields = read_object(body, "body")
    reject_unknown_fields(fields, _FIELDS)
    if fields.get("detailMetrics") not in (None, []):
        raise InvalidQuery("detailMetrics", "single conversations are not kept: remove it")
    metrics = read_names(fields, "metrics")
    if not metrics:
        raise InvalidQuery("metrics", f"is missing: name at least one of {', '.join(kind.metrics)}")
    if unknown := [name[:80] for name in metrics if name not in kind.metrics]:
        raise InvalidQuery("metrics", f"has unknown {', '.join(unknown)}: use {', '.join(kind.metrics)}")
    first = kind.dimensions[0]
    if fields.get("filter") is None:
        raise InvalidQuery("filter", f"is missing: write predicates on {first}")
    filters = read_vendor_filter(fields["filter"]) or Filter()
    if unknown := sorted(filters.dimensions - set(kind.dimensions)):
        raise InvalidQuery("filter", f"has unknown {', '.join(unknown)}: use {', '.join(kind.dimensions)}")
    named = filters.named_values(first)
    ids = None if named is None else frozenset(id_ for id_ in named if id_ is not None)
    return ObservationQuery(frozenset(metrics), ids, partial(_write, frozenset(metrics), filters))


def _write(metrics: frozenset[str], filters: Filter, answer: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the part of an answer that a query asks for; what is empty is left out."""
    results: list[dict[str, object]] = []
    for result in answer["results"]:
        data: Sequence[Mapping[str, object]] = [entry for entry in result["data"] if entry["metric"] in metrics]
        if data and _matches(result["group"], filters):
            results.append({"group": result["group"], "data": data})
    others = {name: value for name, value in answer.items() if name != "results"}
    return {**others, "results": results} if results else others


def _matches(group: Mapping[str, str], filters: Filter) -> bool:
    return any(
        all(
            values.allows(group.get(dimension))
            if dimension in group or dimension != SPLIT_DIMENSION
            else _allows_any(values)
            for dimension, values in conjunction.items()
        )
        for conjunction in filters.conjunctions
    )


def _allows_any(values: ValueSet) -> bool:
    """Return whether a set has any value but null."""
    return values.is_exclusion or any(value is not None for value in values.values)


SERVED_OBSERVATIONS = tuple(
    ObservationPath(path, query_type, partial(_read, query_type)) for query_type, path in OBSERVATION_PATHS.items()
)

"""Roll-up: whether the rows of a report can be turned into coarser rows, and doing so.

Counts and sums add up, minima and maxima fold, ratios follow from their parts; percentiles and distinct counts never roll up.
A dimension may be dropped only if each event has a single value of it. Buckets may be merged only if every boundary of the
longer ones is also a boundary of the shorter ones, in the requested time zone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.lazy_imports import np, pa, pc
from cache_pipeline.query.calendar import floor_to_step, list_buckets
from cache_pipeline.query.dnf import Conjunction, ValueSet
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval, format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, Fold, fold_rows, sort_rows, to_arrow_schema, to_snake_case
from cache_pipeline.query.zones import canonical_zone, has_same_buckets

#: The most bucket boundaries that are checked one by one.
_MAX_BOUNDARIES = 10_000


def find_rollup_problems(source: Report, requested: Report, columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Find the reasons why rows of ``source`` cannot become rows of ``requested``, whatever the interval.

    Args:
        source: The report that has rows.
        requested: The report whose rows are requested.
        columns: The columns of ``source``.

    Yields:
        Field and problem; nothing if the roll-up is possible.
    """
    if (source.account_id, source.query_type) != (requested.account_id, requested.query_type):
        yield "query_type", f"{source.name} has rows of {source.query_type} of {source.account_id}"
        return
    for field, names, available in (
        ("group_by", requested.group_by, source.group_by),
        ("metrics", requested.metrics, source.metrics),
    ):
        if names is not available and (missing := [name for name in names if name not in available]):
            yield field, f"{source.name} has no {', '.join(missing)}: it has {', '.join(available)}"
    selection = _remaining_filter(source, requested)
    if selection is None:
        yield "filters", _describe_filter_problem(source, requested)
        return
    dropped = _dropped_dimensions(source, requested, selection)
    if multivalued := {column.source for column in columns if column.is_multivalued}:
        yield from _find_multivalued_problems(requested, selection, dropped, multivalued)
    if dropped or requested.granularity != source.granularity:
        fixed = {each.source for each in columns if each.fold is Fold.none and each.kind is not ColumnKind.dimension}
        if fixed := sorted(fixed.intersection(requested.metrics)):
            yield (
                "metrics",
                f"{', '.join(fixed)} cannot be rolled up: ask for it as {source.name} has it, by {source.granularity} "
                f"and {', '.join(source.group_by) or 'in total'}, or declare a separate report",
            )


def _describe_filter_problem(source: Report, requested: Report) -> str:
    missing = sorted(requested.filters.dimensions.difference(source.group_by))
    if missing:
        return (
            f"{source.name} is not grouped by {', '.join(missing)}, so its rows cannot be filtered by it: filter by "
            f"{', '.join(source.group_by) or 'no dimension'}"
        )
    return f"{source.name} is declared with a filter that leaves out requested rows"


def _find_multivalued_problems(
    requested: Report, selection: Filter, dropped: Set[str], multivalued: Set[str]
) -> Iterator[tuple[str, str]]:
    if problems := sorted(multivalued & dropped):
        yield (
            "group_by",
            f"{', '.join(problems)} cannot be dropped: an event with several values would be counted several times",
        )
    if problems := sorted(multivalued & selection.dimensions & {*requested.group_by, *dropped}):
        yield "filters", f"{', '.join(problems)} can have several values at once, so rows cannot be filtered by it"


def _measures(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.kind != "dimension"]


def _is_fixed(selection: Filter, dimension: str) -> bool:
    named = selection.named_values(dimension)
    return named is not None and len(named) == 1


def _dropped_dimensions(source: Report, requested: Report, selection: Filter) -> set[str]:
    """Return the dimensions whose groups must be merged. A dimension that the filter fixes to one value has none to merge."""
    if requested.group_by == source.group_by:
        return set()
    return {name for name in source.group_by if name not in requested.group_by and not _is_fixed(selection, name)}


def _remaining_filter(source: Report, requested: Report) -> Filter | None:
    """Return the filter that rows of the source must still pass, or None if the rows cannot be filtered so."""
    if requested.filters is source.filters or requested.filters == source.filters:
        return Filter()
    if not source.filters:
        return requested.filters if requested.filters.dimensions.issubset(source.group_by) else None
    if not requested.filters.is_subset_of(source.filters):
        return None
    applied = source.filters.conjunctions
    # If the source has a single conjunction, the conditions that it implies need no second check.
    implied: Conjunction = applied[0] if len(applied) == 1 else {}
    everything = ValueSet(frozenset(), is_exclusion=True)
    remaining = tuple(
        {
            name: values
            for name, values in conjunction.items()
            if name in source.group_by or not implied.get(name, everything).is_subset_of(values)
        }
        for conjunction in requested.filters.conjunctions
    )
    if any(name not in source.group_by for conjunction in remaining for name in conjunction):
        return None
    return Filter.from_conjunctions(remaining)


def check_bucket_alignment(source: Report, requested: Report, interval: Interval) -> None:
    """Check that each bucket of ``requested`` consists of whole buckets of ``source``.

    Raises:
        InvalidInterval: The interval cuts a bucket of ``requested``.
        InvalidQuery: A bucket of ``requested`` starts within one of ``source``.
    """
    if requested.granularity == source.granularity and requested.time_zone == source.time_zone:
        return
    if canonical_zone(source.time_zone) == canonical_zone(requested.time_zone) and source.step.divides(requested.step):
        return
    minutes = source.step.minutes
    if (
        minutes
        and requested.step.minutes % minutes == 0
        and has_same_buckets(minutes, source.time_zone, requested.time_zone)
    ):
        return
    boundaries = [bucket.start for bucket in list_buckets(interval, requested.step, requested.zone)]
    if len(boundaries) > _MAX_BOUNDARIES:
        raise InvalidQuery(
            "interval", f"{interval} has {len(boundaries)} buckets in another time zone: ask for a shorter one"
        )
    for boundary in (*boundaries, interval.end):
        if floor_to_step(boundary, source.step, source.zone) != boundary:
            raise InvalidQuery(
                "granularity",
                f"a bucket of {requested.granularity} in {requested.time_zone} starts at {format_instant(boundary)}, "
                f"which cuts one of {source.granularity} in {source.time_zone}: ask for a longer one, or in "
                f"{source.time_zone}",
            )


def roll_up(
    rows: pa.Table, source: Report, requested: Report, columns: Sequence[Column], interval: Interval
) -> pa.Table:
    """Turn rows of ``source`` into rows of ``requested``.

    Args:
        rows: Rows of ``source`` within the interval.
        source: The report that the rows belong to.
        requested: The report whose rows are requested. ``find_rollup_problems`` and ``check_bucket_alignment`` must have
            passed.
        columns: The columns of ``requested``.
        interval: Whole buckets of ``requested``; the last one may be incomplete.

    Returns:
        A table of exactly the columns of ``requested``, sorted by bucket and group.
    """
    selection = _remaining_filter(source, requested)
    if selection is None:
        raise InvalidQuery("filters", _describe_filter_problem(source, requested))
    schema = to_arrow_schema(columns)
    selected = apply_filter(rows, selection)
    if requested.granularity == source.granularity and not _dropped_dimensions(source, requested, selection):
        return sort_rows(selected.select(schema.names).cast(schema))
    selected = _assign_buckets(selected, requested, interval)
    keys = ["interval_start", "interval_end", *(to_snake_case(name) for name in requested.group_by)]
    folded = fold_rows(selected, keys, {column.name: column.fold for column in _measures(columns)})
    return sort_rows(folded.select(schema.names).cast(schema))


def _assign_buckets(rows: pa.Table, requested: Report, interval: Interval) -> pa.Table:
    """Replace the bounds of each row's bucket by those of the longer bucket that contains it."""
    buckets = list_buckets(interval, requested.step, requested.zone)
    starts = np.array([bucket.start.replace(tzinfo=None) for bucket in buckets], dtype="datetime64[us]")
    ends = np.array([bucket.end.replace(tzinfo=None) for bucket in buckets], dtype="datetime64[us]")
    indices = np.searchsorted(starts, rows["interval_start"].to_numpy().astype("datetime64[us]"), side="right") - 1
    instant = rows.schema.field("interval_start").type
    for name, values in (("interval_start", starts), ("interval_end", ends)):
        column = pa.array(values[indices]).cast(instant)
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
    return rows


def apply_filter(rows: pa.Table, selection: Filter) -> pa.Table:
    """Return the rows that a filter matches; they have a column for each of its dimensions."""
    if not selection:
        return rows
    matches = pa.array(np.zeros(rows.num_rows, dtype=np.bool_))
    for conjunction in selection.conjunctions:
        all_match = pa.array(np.ones(rows.num_rows, dtype=np.bool_))
        for name, values in conjunction.items():
            all_match = pc.and_(all_match, _is_in(rows[to_snake_case(name)].combine_chunks(), values))
        matches = pc.or_(matches, all_match)
    return rows.filter(matches)


def _is_in(column: pa.Array[Any], values: ValueSet) -> pa.Array[Any]:
    found = pc.is_in(column, value_set=pa.array(list(values.values), pa.string()), skip_nulls=False)
    return pc.invert(found) if values.is_exclusion else found

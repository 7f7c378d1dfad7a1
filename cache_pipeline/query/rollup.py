"""Coarser answers from finer rows: when that is right, and doing it.

Counts and sums add, minima and maxima fold, ratios follow from their parts; percentiles and distinct counts never roll up.
A dimension may be dropped only where each event has one value of it. Buckets may be joined only where every boundary of the
longer ones is one of the shorter, in the zone that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.calendar import floor_to_step, list_buckets
from cache_pipeline.query.dnf import Conjunction, ValueSet
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval, format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, Fold, arrow_schema, snake_case, sort_rows
from cache_pipeline.query.zones import canonical_zone, has_same_buckets

#: More boundaries than this are not looked at one by one.
_MOST_BOUNDARIES = 10_000
_AGGREGATIONS: Mapping[Fold, Literal["sum", "min", "max"]] = {Fold.sum: "sum", Fold.min: "min", Fold.max: "max"}


def find_rollup_problems(source: Report, asked: Report, columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Why rows of ``source`` cannot be made into those of ``asked``, whatever the interval.

    Args:
        source: the series that has rows.
        asked: the series whose rows are wanted.
        columns: of ``source``.

    Yields:
        Field and problem; nothing where it can be done.
    """
    if (source.platform, source.query_type) != (asked.platform, asked.query_type):
        yield "query_type", f"{source.name} holds {source.platform}/{source.query_type}"
        return
    for field, wanted, held in (
        ("group_by", asked.group_by, source.group_by),
        ("metrics", asked.metrics, source.metrics),
    ):
        if lacking := [name for name in wanted if name not in held]:
            yield field, f"{source.name} has no {', '.join(lacking)}: it has {', '.join(held)}"
    selection = _selection(source, asked)
    if selection is None:
        yield "filters", _unfilterable(source, asked)
        return
    dropped = _dropped(source, asked, selection)
    yield from _multivalued(asked, selection, dropped, columns)
    if dropped or asked.granularity != source.granularity:
        fixed = sorted({each.source for each in _measures(columns) if each.fold is Fold.none} & set(asked.metrics))
        if fixed:
            yield (
                "metrics",
                f"{', '.join(fixed)} cannot be rolled up: ask for it as {source.name} has it, by {source.granularity} "
                f"and {', '.join(source.group_by) or 'in total'}, or declare a report of its own",
            )


def _unfilterable(source: Report, asked: Report) -> str:
    loose = sorted(asked.filters.dimensions.difference(source.group_by))
    if loose:
        return (
            f"{source.name} is not grouped by {', '.join(loose)}, so that its rows cannot be filtered by it: it has "
            f"{', '.join(source.group_by) or 'no dimensions'}"
        )
    return f"{source.name} leaves out rows that are asked for"


def _multivalued(
    asked: Report, selection: Filter, dropped: Set[str], columns: Sequence[Column]
) -> Iterator[tuple[str, str]]:
    several = {column.source for column in columns if column.is_multivalued}
    if not several:
        return
    if spoiled := sorted(several & dropped):
        yield "group_by", f"{', '.join(spoiled)} must stay: one event can have several, and would be counted as often"
    if spoiled := sorted(several & selection.dimensions & {*asked.group_by, *dropped}):
        yield "filters", f"{', '.join(spoiled)} can have several values at once, so that rows cannot be filtered by it"


def _measures(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.kind != "dimension"]


def _pinned(selection: Filter, dimension: str) -> bool:
    named = selection.named_values(dimension)
    return named is not None and len(named) == 1


def _dropped(source: Report, asked: Report, selection: Filter) -> set[str]:
    """Dimensions whose groups are to be joined; one that the filter fixes to a value has nothing to join."""
    if asked.group_by == source.group_by:
        return set()
    return {name for name in source.group_by if name not in asked.group_by and not _pinned(selection, name)}


def _selection(source: Report, asked: Report) -> Filter | None:
    """The filter that rows of the source must still pass; None where they cannot be told apart by it."""
    if asked.filters is source.filters or asked.filters == source.filters:
        return Filter()
    if not source.filters:
        return asked.filters if asked.filters.dimensions.issubset(source.group_by) else None
    if source.filters.intersect(asked.filters) != asked.filters:
        return None
    within = source.filters.conjunctions
    # Where the source is one box, a condition that it keeps anyway need not be looked at again.
    kept: Conjunction = within[0] if len(within) == 1 else {}
    everything = ValueSet(frozenset(), is_exclusion=True)
    open_boxes = tuple(
        {
            name: values
            for name, values in box.items()
            if name in source.group_by or not kept.get(name, everything).is_subset_of(values)
        }
        for box in asked.filters.conjunctions
    )
    if any(name not in source.group_by for box in open_boxes for name in box):
        return None
    return Filter.from_conjunctions(open_boxes)


def check_bucket_alignment(source: Report, asked: Report, interval: Interval) -> None:
    """Make sure that each bucket of ``asked`` is whole buckets of ``source``.

    Raises:
        InvalidInterval: the interval cuts a bucket of ``asked``.
        InvalidQuery: a bucket of ``asked`` begins within one of ``source``.
    """
    if asked.granularity == source.granularity and asked.time_zone == source.time_zone:
        return
    if canonical_zone(source.time_zone) == canonical_zone(asked.time_zone) and source.step.divides(asked.step):
        return
    minutes = source.step.minutes
    if minutes and asked.step.minutes % minutes == 0 and has_same_buckets(minutes, source.time_zone, asked.time_zone):
        return
    bounds = [bucket.start for bucket in list_buckets(interval, asked.step, asked.zone)]
    if len(bounds) > _MOST_BOUNDARIES:
        raise InvalidQuery("interval", f"{interval} has {len(bounds)} buckets in another zone: ask for a shorter one")
    for bound in (*bounds, interval.end):
        if floor_to_step(bound, source.step, source.zone) != bound:
            raise InvalidQuery(
                "granularity",
                f"a bucket of {asked.granularity} in {asked.time_zone} begins at {format_instant(bound)}, which cuts "
                f"one of {source.granularity} in {source.time_zone}: ask for a longer one, or in {source.time_zone}",
            )


def roll_up(rows: pa.Table, source: Report, asked: Report, columns: Sequence[Column], interval: Interval) -> pa.Table:
    """Rows of ``source`` as rows of ``asked``.

    Args:
        rows: of ``source``, within the interval.
        source: whose rows they are.
        asked: whose rows are wanted; ``refusals`` and ``check_buckets`` have found nothing against it.
        columns: of ``asked``.
        interval: whole buckets of ``asked``, of which the last may have begun only.

    Returns:
        A table of exactly the columns of ``asked``, in order of bucket and group.
    """
    selection = _selection(source, asked)
    if selection is None:
        raise InvalidQuery("filters", _unfilterable(source, asked))
    schema = arrow_schema(columns)
    chosen = _filtered(rows, selection)
    if asked.granularity == source.granularity and not _dropped(source, asked, selection):
        return sort_rows(chosen.select(schema.names).cast(schema))
    chosen = _in_buckets(chosen, asked, interval)
    keys = ["interval_start", "interval_end", *(snake_case(name) for name in asked.group_by)]
    folds = {column.name: _AGGREGATIONS[column.fold] for column in _measures(columns)}
    grouped = chosen.group_by(keys, use_threads=False).aggregate(list(folds.items()))  # pyright: ignore[reportArgumentType]
    arrays = [grouped[f"{name}_{folds[name]}" if name in folds else name] for name in schema.names]
    return sort_rows(pa.Table.from_arrays(arrays, names=schema.names).cast(schema))


def _in_buckets(rows: pa.Table, asked: Report, interval: Interval) -> pa.Table:
    """The rows with the bounds of the longer buckets they lie in."""
    bounds = list_buckets(interval, asked.step, asked.zone)
    starts = np.array([bucket.start.replace(tzinfo=None) for bucket in bounds], dtype="datetime64[us]")
    ends = np.array([bucket.end.replace(tzinfo=None) for bucket in bounds], dtype="datetime64[us]")
    places = np.searchsorted(starts, rows["interval_start"].to_numpy().astype("datetime64[us]"), side="right") - 1
    instant = rows.schema.field("interval_start").type
    for name, values in (("interval_start", starts), ("interval_end", ends)):
        column = pa.array(values[places]).cast(instant)
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
    return rows


def _filtered(rows: pa.Table, selection: Filter) -> pa.Table:
    if not selection:
        return rows
    passed = pa.array(np.zeros(rows.num_rows, dtype=np.bool_))
    for box in selection.conjunctions:
        met = pa.array(np.ones(rows.num_rows, dtype=np.bool_))
        for name, values in box.items():
            met = pc.and_(met, _holds(rows[snake_case(name)].combine_chunks(), values))
        passed = pc.or_(passed, met)
    return rows.filter(passed)


def _holds(column: pa.Array[Any], values: ValueSet) -> pa.Array[Any]:
    found = pc.is_in(column, value_set=pa.array(list(values.values), pa.string()), skip_nulls=False)
    return pc.invert(found) if values.is_exclusion else found

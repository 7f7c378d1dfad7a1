"""The live part of an answer: rows of the present beside those of stored buckets.

Each row is marked as final, provisional or live. Live figures have columns of their own, so that no sum over a column adds an observation to
stored figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.lazy_imports import pa, pc
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.query.rollup import apply_filter
from cache_pipeline.query.schema import Column, ColumnKind


class RowState(StrEnum):
    """What may still happen to the figures of a row."""

    final = "final"
    provisional = "provisional"
    live = "live"


#: The last column of an answer with a live part.
STATE = Column("state", ColumnKind.dimension, description=f"of the row: {', '.join(RowState)}")


def choose_live_part(
    requested: Report, live_reports: Mapping[str, LiveReport], *, is_of_the_past: bool = False
) -> LiveReport:
    """Return the live report whose rows a query wants beside its own.

    Args:
        requested: The report as it would be declared for the query.
        live_reports: The declared live reports by name.
        is_of_the_past: Whether the query asks for figures as they were known earlier.

    Raises:
        InvalidQuery: The report declares none, or its rows do not go with the query's groups or filter.
    """
    if is_of_the_past:
        raise InvalidQuery("live", "figures as they were known earlier have no present: leave out live, or as_of")
    live = live_reports.get(requested.live or "")
    if live is None:
        raise InvalidQuery("live", f"{requested.name} declares no live report: leave it out")
    for field, problem in _find_query_problems(requested, live):
        raise InvalidQuery(field, problem)
    return live


def find_live_part_problems(
    report: Report, columns: Sequence[Column], live: LiveReport | None, live_columns: Sequence[Column]
) -> Iterator[str]:
    """Yield why a report cannot have its declared live part.

    Args:
        report: The report.
        columns: Its columns.
        live: The live report that it names; None if there is none of that name.
        live_columns: The columns of the live report.
    """
    if live is None:
        yield f"there is no live report {report.live!r}"
        return
    if report.rows is not None:
        yield "applies to figures by group: reports with rows have no live part"
        return
    if live.account_id != report.account_id:
        yield f"{live.name} is of {live.account_id}, and {report.name} of {report.account_id}: their ids differ"
    for _, problem in _find_query_problems(report, live):
        yield problem
    taken = {column.name for column in columns} | set(report.measures) | {STATE.name}
    if twice := sorted(
        taken & {column.name for column in live_columns if column.kind is not ColumnKind.dimension}
        | {column.name for column in columns if column.name == STATE.name}
    ):
        yield f"{', '.join(twice)} would be a second column of that name"


def _find_query_problems(report: Report, live: LiveReport) -> Iterator[tuple[str, str]]:
    if lacking := [dimension for dimension in live.group_by if dimension not in report.group_by]:
        yield "group_by", f"lacks {', '.join(lacking)}, by which the figures of {live.name} are"
    if unknown := sorted(report.filters.dimensions - set(live.group_by)):
        yield (
            "filters",
            f"{live.name} is not by {', '.join(unknown)}, so its figures cannot be filtered in the same way",
        )


def mark_rows(rows: pa.Table, complete_through: datetime) -> pa.Table:
    """Add the column that says of each row whether it is final or provisional."""
    ends = rows.column("interval_end")
    is_final = pc.less_equal(ends, pa.scalar(complete_through, ends.type))
    states = pc.if_else(is_final, RowState.final.value, RowState.provisional.value)
    return rows.append_column(pa.field(STATE.name, pa.string()), pc.cast(states, pa.string()))


def add_live_rows(marked: pa.Table, live_rows: pa.Table, requested: Report) -> pa.Table:
    """Append the rows of a live report to marked rows. What only one of them has is null in the rows of the other.

    Args:
        marked: The rows of stored buckets, as `mark_rows` returns them.
        live_rows: The rows of the live report.
        requested: The query's report, whose filter holds for both.
    """
    chosen = apply_filter(live_rows, requested.filters)
    states = pa.array([RowState.live.value] * chosen.num_rows, pa.string())
    chosen = chosen.append_column(pa.field(STATE.name, pa.string()), states)
    joined = pa.concat_tables([_as_nullable(marked), _as_nullable(chosen)], promote_options="default")
    return joined.select([*(name for name in joined.schema.names if name != STATE.name), STATE.name])


def _as_nullable(rows: pa.Table) -> pa.Table:
    fields: list[pa.Field[Any]] = [field.with_nullable(True) for field in rows.schema]  # noqa: FBT003 - Arrow's own argument
    return rows.cast(pa.schema(fields))

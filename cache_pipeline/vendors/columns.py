"""Columns that the reports of several vendors have in common, so that a report moves by changing its ``platform``.

A name says what a metric is: ``n…`` counts events, ``t…`` is a duration in milliseconds.
"""

from __future__ import annotations

from cache_pipeline.query.schema import Column, ColumnKind, Fold, to_snake_case
from cache_pipeline.vendors.definitions import describe


def dimension_column(name: str, description: str = "") -> Column:
    """Return a column of a row that holds one of its properties."""
    return Column(name, ColumnKind.dimension, nullable=True, description=description)


def instant_column(name: str, description: str = "") -> Column:
    """Return a column of a row that holds an instant."""
    return Column(name, ColumnKind.instant, nullable=True, description=description)


def key_column(name: str, *, is_multivalued: bool = False) -> Column:
    """Return the column of a dimension by which figures are grouped, or of a row's key.

    Args:
        name: The dimension.
        is_multivalued: Whether one event may have several values of it, and counts once in each group.
    """
    return Column(
        to_snake_case(name),
        ColumnKind.dimension,
        nullable=True,
        description=describe(name),
        source=name,
        is_multivalued=is_multivalued,
    )


def row_metric_column(metric: str, *, nullable: bool = False) -> Column:
    """Return the column of a metric of a single row, a whole number."""
    unit = "in milliseconds" if metric.startswith("t") else "number of events"
    return Column(
        to_snake_case(metric), ColumnKind.integer, nullable=nullable, description=describe(metric, unit), source=metric
    )


def count_column(metric: str) -> Column:
    """Return the column of a count."""
    return Column(
        to_snake_case(metric),
        ColumnKind.integer,
        description=describe(metric, "number of events"),
        source=metric,
        fold=Fold.sum,
    )


def duration_columns(metric: str) -> tuple[Column, ...]:
    """Return the columns of a duration: count, sum, shortest and longest of its events."""
    statistics = (
        ("count", ColumnKind.integer, Fold.sum, "number of events"),
        ("sum", ColumnKind.number, Fold.sum, "total in milliseconds"),
        ("min", ColumnKind.number, Fold.min, "shortest in milliseconds"),
        ("max", ColumnKind.number, Fold.max, "longest in milliseconds"),
    )
    return tuple(
        Column(
            f"{to_snake_case(metric)}_{name}",
            kind,
            nullable=fold is not Fold.sum,
            description=describe(metric, words),
            source=metric,
            fold=fold,
        )
        for name, kind, fold, words in statistics
    )


#: What a row of one conversation holds beside its key and its metrics.
CONVERSATION_COLUMNS = (
    instant_column("conversation_start"),
    instant_column("conversation_end", "null while the conversation is open"),
    dimension_column("originating_direction"),
    dimension_column("division_id", "the first division of the conversation"),
    dimension_column("media_type", "media type of the first session"),
    dimension_column("first_queue_id"),
    dimension_column("last_user_id"),
    dimension_column("ani"),
    dimension_column("dnis"),
    Column("agents", ColumnKind.integer, description="number of users who took part"),
)

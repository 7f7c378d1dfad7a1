"""Compares rows by their group: the values of the report's dimensions, which may be null."""

from __future__ import annotations

from psycopg.sql import SQL, Composable, Identifier

from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names


def same_group(report: Report, left: str, right: str) -> Composable:
    """Return the condition that two rows are of one bucket and group, given the aliases of their tables."""
    # Equality can be hashed, unlike IS NOT DISTINCT FROM.
    pairs = [(Identifier(left, name), Identifier(right, name)) for name in ("interval_start", *dimension_names(report))]
    start, *dimensions = pairs
    return SQL(" AND ").join(
        [
            SQL("{} = {}").format(*start),
            *(
                SQL("coalesce({0}, '') = coalesce({1}, '') AND ({0} IS NULL) = ({1} IS NULL)").format(*pair)
                for pair in dimensions
            ),
        ]
    )

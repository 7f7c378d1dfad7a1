"""What is published of a row-level report: its rows counted and summed by bucket and group, never the rows themselves.

A million conversations are folded batch by batch: what is held is a row for each group.
"""

from __future__ import annotations

import pyarrow as pa

from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names, snake_case
from cache_pipeline.rows.rows import Rows

#: Where the declaration says nothing: a count of fewer people is nobody's business.
SMALLEST_CELL = 5
_TIMES = ("interval_start", "interval_end")


def aggregate_for_publishing(report: Report) -> Report:
    """The report that the published rows are of: itself, or for rows the counts by ``edge_group_by``."""
    if report.rows is None:
        return report
    return report.model_copy(
        update={
            "rows": None,
            "group_by": report.publish.edge_group_by or (),
            # A column of that name counts the rows.
            "metrics": (report.rows, *report.metrics),
            "volume_metric": report.rows,
            "publish": report.publish.model_copy(
                update={"min_cell_count": report.publish.min_cell_count or SMALLEST_CELL}
            ),
        }
    )


def is_publishable(report: Report, rows: Rows) -> pa.Table:
    """The rows that may be published, in memory: all of a report of figures, the counts of one of rows.

    Times are those of the buckets, counts and sums whole numbers; a sum is null where no row has a value.
    """
    if report.rows is None:
        return rows.to_table()
    shown = aggregate_for_publishing(report)
    measures = [snake_case(metric) for metric in shown.metrics]
    schema = pa.schema(
        [
            *(rows.schema.field(name) for name in (*_TIMES, *dimension_names(shown))),
            *(pa.field(name, pa.int64(), nullable=name != measures[0]) for name in measures),
        ]
    )
    counted = schema.empty_table()
    for batch in rows.batches():
        one_each = pa.Table.from_batches([batch]).append_column(measures[0], pa.repeat(1, batch.num_rows))
        counted = _summed(pa.concat_tables([counted, one_each.select(schema.names).cast(schema)]), measures, schema)
    return counted


def _summed(table: pa.Table, measures: list[str], schema: pa.Schema) -> pa.Table:
    keys = [name for name in schema.names if name not in measures]
    summed = table.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in measures])
    return pa.table(
        [*(summed[name] for name in keys), *(summed[f"{name}_sum"] for name in measures)], names=[*keys, *measures]
    ).cast(schema)

"""What is published of a row-level report: counts and sums of its rows by bucket and group, never the rows themselves.

Rows are aggregated batch by batch, so that only one row per group is in memory, even for a million rows.
"""

from __future__ import annotations

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.publication import published_report
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names, to_snake_case
from cache_pipeline.rows.rows import Rows

_TIMES = ("interval_start", "interval_end")


def publishable_rows(report: Report, rows: Rows) -> pa.Table:
    """Return the rows that may be published: all rows of an aggregate report, or the counts of a row-level one.

    Times are those of the buckets; counts and sums are integers. A sum is null if no row has a value.
    """
    if report.rows is None:
        return rows.to_table()
    published = published_report(report)
    measures = [to_snake_case(metric) for metric in published.metrics]
    schema = pa.schema(
        [
            *(rows.schema.field(name) for name in (*_TIMES, *dimension_names(published))),
            *(pa.field(name, pa.int64(), nullable=name != measures[0]) for name in measures),
        ]
    )
    totals = schema.empty_table()
    for batch in rows.batches():
        ones = pa.Table.from_batches([batch]).append_column(measures[0], pa.repeat(1, batch.num_rows))
        totals = _sum_by_group(pa.concat_tables([totals, ones.select(schema.names).cast(schema)]), measures, schema)
    return totals


def _sum_by_group(table: pa.Table, measures: list[str], schema: pa.Schema) -> pa.Table:
    keys = [name for name in schema.names if name not in measures]
    summed = table.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in measures])
    return pa.table(
        [*(summed[name] for name in keys), *(summed[f"{name}_sum"] for name in measures)], names=[*keys, *measures]
    ).cast(schema)

"""What people see of a run in the Dagster UI: numbers to plot, chunks as a table, column schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.query.completeness import JudgedChunk, Verdict
from cache_pipeline.query.interval import canonical_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, Kind, snake_case

_MOST_ROWS = 200
_DATA_TYPES = {Kind.dimension: "string", Kind.integer: "int64", Kind.number: "float64", Kind.instant: "timestamp"}


def column_schema(report: Report, columns: Iterable[Column]) -> dg.TableSchema:
    """The columns of a report as Dagster shows them, with what the vendor calls them."""
    theirs = {snake_case(name): f"{name} of {report.platform}" for name in (*report.group_by, *report.metrics)}
    return dg.TableSchema(
        columns=[
            dg.TableColumn("interval_start", "timestamp (UTC)", "start of the bucket"),
            dg.TableColumn("interval_end", "timestamp (UTC)", "end of the bucket, exclusive"),
            *(
                dg.TableColumn(column.name, _DATA_TYPES[column.kind], column.description or theirs.get(column.name))
                for column in columns
            ),
        ]
    )


def chunk_table(chunks: Sequence[JudgedChunk]) -> dg.TableMetadataValue:
    """How each vendor answer was judged."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "from": f"{chunk.interval.start:%Y-%m-%d %H:%M}",
                    "to": f"{chunk.interval.end:%Y-%m-%d %H:%M}",
                    "verdict": str(chunk.verdict),
                    "got": chunk.got,
                    "expected": round(chunk.expected),
                    "expected by": str(chunk.source),
                    "calls": chunk.calls,
                    "seconds": round(chunk.seconds, 1),
                }
            )
            for chunk in chunks[:_MOST_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("from", "string", "UTC"),
                dg.TableColumn("to", "string", "UTC, exclusive"),
                dg.TableColumn("verdict", "string"),
                dg.TableColumn("got", "int"),
                dg.TableColumn("expected", "int"),
                dg.TableColumn("expected by", "string"),
                dg.TableColumn("calls", "int"),
                dg.TableColumn("seconds", "float"),
            ]
        ),
    )


def chunk_sentence(chunk: JudgedChunk) -> str:
    """One judged chunk in words, for logs and checks."""
    told = f"{chunk.interval}: {chunk.got} rows of {chunk.expected:.0f} expected by {chunk.source}"
    consequence = {
        Verdict.whole: "whole",
        Verdict.thin: "thin, and its parts say the same",
        Verdict.truncated: "truncated, so discarded and asked again in smaller chunks",
        Verdict.changed: "restated while its parts were asked for, so they count",
        Verdict.incomplete: "incomplete, and there is nothing smaller to ask for",
        Verdict.unjudged: "nothing to judge it by yet",
    }
    return f"{told}: {consequence[chunk.verdict]}"


def partition_metadata(partition: FetchedPartition) -> Mapping[str, dg.RawMetadataValue]:
    """Numbers of one fetched partition, plotted by Dagster over partitions."""
    lag = (partition.interval.end - partition.watermark).total_seconds()
    return {
        "dagster/partition_row_count": partition.rows.num_rows,
        "calls": sum(chunk.calls for chunk in partition.chunks),
        "chunks asked": len(partition.chunks),
        "seconds": round(sum(chunk.seconds for chunk in partition.chunks), 2),
        "truncated chunks": sum(chunk.verdict is Verdict.truncated for chunk in partition.chunks),
        "watermark": canonical_instant(partition.watermark),
        "watermark lag (s)": max(lag, 0.0),
    }

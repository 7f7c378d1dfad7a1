"""What people see of a run in the Dagster UI: numbers to plot, chunks as a table, column schemas."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

import dagster as dg

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, snake_case

_MOST_ROWS = 200
_DATA_TYPES = {
    ColumnKind.dimension: "string",
    ColumnKind.integer: "int64",
    ColumnKind.number: "float64",
    ColumnKind.instant: "timestamp",
}


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


def chunk_table(chunks: Sequence[ChunkResult]) -> dg.TableMetadataValue:
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


def chunk_sentence(chunk: ChunkResult) -> str:
    """One judged chunk in words, for logs and checks."""
    told = f"{chunk.interval}: {chunk.got} rows of {chunk.expected:.0f} expected by {chunk.source}"
    consequence = {
        Verdict.complete: "complete",
        Verdict.sparse: "sparse: its parts have the same rows",
        Verdict.truncated: "truncated: discarded and fetched again in smaller chunks",
        Verdict.restated: "restated while its parts were fetched: only the parts are kept",
        Verdict.incomplete: "incomplete, and it cannot be split further",
        Verdict.unverified: "unverified: no row count is expected yet",
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
        "watermark": format_instant(partition.watermark),
        "watermark lag (s)": max(lag, 0.0),
    }


_WIDTH, _HEIGHT, _FOOT = 640, 120, 18
_COLOUR = "#4f43dd"
#: More bars than this are narrower than a pixel pair; neighbours are then drawn as one, by their greatest.
_MOST_BARS = 200


def partition_chart(numbers: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Numbers by partition as bars, the least and the greatest told beside them; shown as an image by the UI."""
    if not numbers:
        return dg.MetadataValue.md("no partitions")
    image = base64.b64encode(bar_chart(list(numbers), list(numbers.values())).encode()).decode()
    least, greatest = min(numbers.values()), max(numbers.values())
    alternative = f"{len(numbers)} partitions, {least:,.0f} to {greatest:,.0f}"
    return dg.MetadataValue.md(f"![{alternative}](data:image/svg+xml;base64,{image})\n\n{alternative}")


def bar_chart(labels: Sequence[str], values: Sequence[float]) -> str:
    """An SVG of one bar for each value, the first and last label below."""
    bars = _merged(values)
    top = max(max(bars), 1e-9)
    width = _WIDTH / len(bars)
    drawn = "".join(
        f'<rect x="{number * width:.2f}" y="{_HEIGHT * (1 - value / top):.2f}" width="{max(width - 1, 0.5):.2f}" '
        f'height="{_HEIGHT * value / top:.2f}"/>'
        for number, value in enumerate(bars)
    )
    foot = _HEIGHT + _FOOT - 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT + _FOOT}" '
        f'font-family="sans-serif" font-size="11"><g fill="{_COLOUR}">{drawn}</g><g fill="#777">'
        f'<text x="0" y="{foot}">{escape(labels[0])}</text>'
        f'<text x="{_WIDTH}" y="{foot}" text-anchor="end">{escape(labels[-1])}</text></g></svg>'
    )


def _merged(values: Sequence[float]) -> list[float]:
    each = -(-len(values) // _MOST_BARS)
    return [max(values[start : start + each]) for start in range(0, len(values), each)]

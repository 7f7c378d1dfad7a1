"""Metadata shown in the Dagster UI: figures to plot, the table of chunks, bar charts and column schemas."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

import dagster as dg

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, to_snake_case

_MAX_ROWS = 200
_DATA_TYPES = {
    ColumnKind.dimension: "string",
    ColumnKind.integer: "int64",
    ColumnKind.number: "float64",
    ColumnKind.instant: "timestamp",
}
_VERDICTS = {
    Verdict.complete: "complete",
    Verdict.sparse: "sparse, as its parts confirm",
    Verdict.truncated: "truncated; discarded and fetched again in smaller chunks",
    Verdict.restated: "restated while its parts were fetched; the parts count",
    Verdict.incomplete: "incomplete, and cannot be split further",
    Verdict.refused: "refused for its size; fetched again in smaller chunks",
    Verdict.failed: "the vendor's job failed; fetched again in halves",
    Verdict.unverified: "unverified; there is nothing to compare it with yet",
}
_CHART_WIDTH, _CHART_HEIGHT, _CHART_FOOTER = 640, 120, 18
_BAR_COLOUR = "#4f43dd"
#: More bars would be narrower than about three pixels each; neighbours are then drawn as one bar, as high as the highest.
_MAX_BARS = 200


def column_schema(report: Report, columns: Iterable[Column]) -> dg.TableSchema:
    """Return the columns of a report as Dagster shows them, with the vendor's names as descriptions."""
    vendor_names = {to_snake_case(name): f"{name} of {report.platform}" for name in (*report.group_by, *report.metrics)}
    return dg.TableSchema(
        columns=[
            dg.TableColumn("interval_start", "timestamp (UTC)", "start of the bucket"),
            dg.TableColumn("interval_end", "timestamp (UTC)", "end of the bucket, exclusive"),
            *(
                dg.TableColumn(
                    column.name, _DATA_TYPES[column.kind], column.description or vendor_names.get(column.name)
                )
                for column in columns
            ),
        ]
    )


def chunk_table(chunks: Sequence[ChunkResult]) -> dg.TableMetadataValue:
    """Return the verdict on each of the vendor's answers as a table."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "from": f"{chunk.interval.start:%Y-%m-%d %H:%M}",
                    "to": f"{chunk.interval.end:%Y-%m-%d %H:%M}",
                    "verdict": str(chunk.verdict),
                    "rows": chunk.got,
                    "expected rows": round(chunk.expected),
                    "expected from": str(chunk.source),
                    "calls": chunk.calls,
                    "seconds": round(chunk.seconds, 1),
                }
            )
            for chunk in chunks[:_MAX_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("from", "string", "UTC"),
                dg.TableColumn("to", "string", "UTC, exclusive"),
                dg.TableColumn("verdict", "string"),
                dg.TableColumn("rows", "int"),
                dg.TableColumn("expected rows", "int"),
                dg.TableColumn("expected from", "string"),
                dg.TableColumn("calls", "int"),
                dg.TableColumn("seconds", "float"),
            ]
        ),
    )


def describe_chunk(chunk: ChunkResult) -> str:
    """Describe one verified chunk in a sentence, for logs and checks."""
    return (
        f"{chunk.interval}: {chunk.got} rows, {chunk.expected:.0f} expected from {chunk.source}: "
        f"{_VERDICTS[chunk.verdict]}"
    )


def partition_metadata(partition: FetchedPartition) -> Mapping[str, dg.RawMetadataValue]:
    """Return figures of one fetched partition, which Dagster plots over partitions."""
    lag = (partition.interval.end - partition.watermark).total_seconds()
    return {
        "dagster/partition_row_count": partition.rows.num_rows,
        "calls": sum(chunk.calls for chunk in partition.chunks),
        "chunks": len(partition.chunks),
        "seconds": round(sum(chunk.seconds for chunk in partition.chunks), 2),
        "truncated chunks": sum(chunk.verdict is Verdict.truncated for chunk in partition.chunks),
        "watermark": format_instant(partition.watermark),
        "watermark lag (s)": max(lag, 0.0),
    }


def partition_chart(figures: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Return a bar chart of figures by partition, as an image in Markdown, with the lowest and highest in words."""
    if not figures:
        return dg.MetadataValue.md("no partitions")
    image = base64.b64encode(bar_chart(list(figures), list(figures.values())).encode()).decode()
    lowest, highest = min(figures.values()), max(figures.values())
    caption = f"{len(figures)} partitions, {lowest:,.0f} to {highest:,.0f}"
    return dg.MetadataValue.md(f"![{caption}](data:image/svg+xml;base64,{image})\n\n{caption}")


def bar_chart(labels: Sequence[str], values: Sequence[float]) -> str:
    """Return an SVG with one bar for each value, and the first and last label below."""
    bars = _merge_bars(values)
    top = max(max(bars), 1e-9)
    width = _CHART_WIDTH / len(bars)
    rectangles = "".join(
        f'<rect x="{number * width:.2f}" y="{_CHART_HEIGHT * (1 - value / top):.2f}" '
        f'width="{max(width - 1, 0.5):.2f}" height="{_CHART_HEIGHT * value / top:.2f}"/>'
        for number, value in enumerate(bars)
    )
    baseline = _CHART_HEIGHT + _CHART_FOOTER - 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_CHART_WIDTH}" height="{_CHART_HEIGHT + _CHART_FOOTER}" '
        f'font-family="sans-serif" font-size="11"><g fill="{_BAR_COLOUR}">{rectangles}</g><g fill="#777">'
        f'<text x="0" y="{baseline}">{escape(labels[0])}</text>'
        f'<text x="{_CHART_WIDTH}" y="{baseline}" text-anchor="end">{escape(labels[-1])}</text></g></svg>'
    )


def _merge_bars(values: Sequence[float]) -> list[float]:
    size = -(-len(values) // _MAX_BARS)
    return [max(values[start : start + size]) for start in range(0, len(values), size)]

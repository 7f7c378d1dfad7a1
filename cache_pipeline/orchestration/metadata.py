"""Metadata shown in the Dagster UI: tables and their columns, code, figures to plot, the table of chunks and bar charts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

import dagster as dg

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.dagster_compat import code_reference
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.declarations import Declaration
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline.query.series import Series

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


def column_schema(columns: Iterable[Column]) -> dg.TableSchema:
    """Return the columns of a report as Dagster shows them, with what they mean and in which unit."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn("interval_start", "timestamp (UTC)", "start of the bucket"),
            dg.TableColumn("interval_end", "timestamp (UTC)", "end of the bucket, exclusive"),
            *(dg.TableColumn(each.name, _DATA_TYPES[each.kind], each.description or None) for each in columns),
        ]
    )


def column_lineage(
    schema: dg.TableSchema, upstream: dg.AssetKey, upstream_schema: dg.TableSchema
) -> dg.TableColumnLineage:
    """Return the lineage of columns that are copied, or summed up, from those of the same names of another asset."""
    known = {column.name for column in upstream_schema.columns}
    names = [column.name for column in schema.columns if column.name in known]
    return dg.TableColumnLineage({name: [dg.TableColumnDep(upstream, name)] for name in names})


def code_version(report: Report) -> str:
    """Return a version that changes with the meaning of a declaration, and not with how its figures are fetched."""
    return _digest([Series(report).canonical_json, report.metrics])


def published_code_version(report: Report) -> str:
    """Return the same for the published files, which depend on what of the figures may be published too."""
    options = report.publish
    version = [code_version(report), options.edge_columns, options.edge_group_by, options.min_cell_count]
    if options.min_cell_count is not None:
        version.append(report.volume_metric)
    return _digest(version)


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def code_references(declaration: Declaration) -> dg.CodeReferencesMetadataValue:
    """Return the line where a report is declared, as a link that the UI opens in an editor."""
    file = declaration.file
    label = "/".join(file.parts[-2:])
    return code_reference(str(file.absolute()), declaration.line, label)


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

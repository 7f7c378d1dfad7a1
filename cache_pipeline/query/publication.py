"""What of a report may be published: its columns, and the counts of a row-level report instead of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.schema import Column, ColumnKind, dimension_names, to_snake_case

#: The default of `min_cell_count` for row-level reports: smaller counts could identify people.
DEFAULT_MIN_CELL_COUNT = 5


def published_report(report: Report) -> Report:
    """Return the report of the published rows: the report itself or, if it is row-level, its counts by ``edge_group_by``."""
    if report.rows is None:
        return report
    return report.model_copy(
        update={
            "rows": None,
            "group_by": report.publish.edge_group_by or (),
            # The column of this name counts the rows.
            "metrics": (report.rows, *report.metrics),
            "volume_metric": report.rows,
            "publish": report.publish.model_copy(
                update={"min_cell_count": report.publish.min_cell_count or DEFAULT_MIN_CELL_COUNT}
            ),
        }
    )


def published_columns(report: Report, columns: Iterable[Column]) -> list[Column]:
    """Return the published ones of a report's columns, and the count of a row-level report's rows.

    Args:
        report: The report.
        columns: The columns of its answers.
    """
    found = _publishable_columns(report, columns)
    if report.publish.edge_columns is None:
        return found
    allowed = {to_snake_case(name) for name in report.publish.edge_columns}
    return [each for each in found if each.kind is ColumnKind.dimension or each.name in allowed]


def _publishable_columns(report: Report, columns: Iterable[Column]) -> list[Column]:
    if report.rows is None:
        return list(columns)
    published = published_report(report)
    names = [*dimension_names(published), *(to_snake_case(metric) for metric in published.metrics)]
    count = Column(to_snake_case(report.rows), ColumnKind.integer, description=f"number of {report.rows}")
    by_name = {each.name: each for each in (*columns, count)}
    return [by_name[name] for name in names if name in by_name]


def find_publication_problems(report: Report, columns: Iterable[Column]) -> Iterator[tuple[str, str]]:
    """Yield what of a declaration makes publishing fail, as (dotted field, problem).

    Args:
        report: The report.
        columns: The columns of its answers.
    """
    if Tier.edge not in report.publish.tiers:
        return
    names = [each.name for each in _publishable_columns(report, columns)]
    options = published_report(report).publish
    if unknown := sorted(name for name in options.edge_columns or () if to_snake_case(name) not in names):
        yield "publish.edge_columns", f"unknown {', '.join(unknown)}; expected some of {', '.join(names)}"
    if options.min_cell_count is not None and event_column(published_report(report), names) is None:
        yield (
            "publish.min_cell_count",
            f"{report.volume_metric} does not count events: declare a volume_metric that does",
        )


def event_column(report: Report, names: Iterable[str]) -> str | None:
    """Return the name of the column that counts a row's events, or None if there is none."""
    metric, known = to_snake_case(report.volume_metric or ""), set(names)
    return next((name for name in (metric, f"{metric}_count") if metric and name in known), None)

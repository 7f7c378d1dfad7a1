"""The vendors' rules for declarations: what they fill in, and which mistakes only they can detect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.measure_columns import with_default_measures
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.vendors.registry import find_vendor, has_vendor, vendor_names
from cache_pipeline.vendors.spec import VendorSpec


def use_row_keys(report: Report) -> Report:
    """Return a report of single rows with the dimensions that identify them as its `group_by`; others unchanged."""
    rules = find_vendor(report.platform).rows.get(report.rows or "") if has_vendor(report.platform) else None
    return report.model_copy(update={"group_by": rules.key}) if rules and not report.group_by else report


def use_vendor_measures(report: Report) -> Report:
    """Return a report with the measures of its vendor that its columns allow, before its own; unchanged if it has mistakes."""
    if not has_vendor(report.platform) or report.rows or any(find_vendor_problems(report)):
        return report
    vendor = find_vendor(report.platform)
    measures = with_default_measures(report.measures, vendor.measures, vendor.adapter.columns(report))
    return report.model_copy(update={"measures": measures})


def find_vendor_problems(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the mistakes in a declaration by the rules of its vendor, as (dotted field, problem)."""
    vendor = find_vendor(report.platform)
    if problem := _find_rows_problem(report, vendor):
        yield problem
        return
    if problem := _find_publication_problem(report, vendor):
        yield problem
    yield from vendor.adapter.check_declaration(report)


def _find_rows_problem(report: Report, vendor: VendorSpec[Any]) -> tuple[str, str] | None:
    if report.rows is None:
        return None
    if report.rows not in vendor.rows:
        remedy = f"expected one of {', '.join(vendor.rows)}" if vendor.rows else "remove the field"
        return "rows", f"{vendor.name} has no rows of {report.rows[:80]!r}; {remedy}"
    if report.group_by != vendor.rows[report.rows].key:
        return "group_by", f"a report with rows has one row for each of the {report.rows}: write group_by: []"
    return None


def _find_publication_problem(report: Report, vendor: VendorSpec[Any]) -> tuple[str, str] | None:
    is_published = Tier.edge in report.publish.tiers
    if report.rows is not None:
        if is_published and report.publish.edge_group_by is None:
            return (
                "publish.tiers",
                f"edge publishes aggregates only, and {report.rows} are single ones: write edge_group_by to publish their "
                "counts, or tiers: [history]",
            )
        allowed = vendor.rows[report.rows].edge_dimensions
        if unknown := sorted(set(report.publish.edge_group_by or ()) - set(allowed)):
            return (
                "publish.edge_group_by",
                f"{', '.join(unknown)}: counts of {report.rows} may be published by {', '.join(allowed)}",
            )
    elif is_published and (personal := sorted(vendor.personal_dimensions & set(report.group_by))):
        return (
            "publish.tiers",
            f"edge publishes aggregates only, and rows by {', '.join(personal)} are figures of single people: "
            "write tiers: [history, hot]",
        )
    return None


def find_live_problems(report: LiveReport) -> Iterator[tuple[str, str]]:
    """Yield the mistakes in the declaration of a live report by the rules of its vendor, as (dotted field, problem)."""
    vendor = find_vendor(report.platform)
    kind = vendor.live.get(report.query_type)
    if kind is None:
        others = ", ".join(name for name in vendor_names() if report.query_type in find_vendor(name).live)
        yield (
            "query_type",
            f"{vendor.name} does not answer {report.query_type}, which shows the present: declare one of its reports of the "
            f"past, or write platform: {others}",
        )
        return
    for field, names, known in (
        ("group_by", report.group_by, kind.dimensions),
        ("metrics", report.metrics, tuple(kind.metrics)),
    ):
        if unknown := sorted(set(names) - set(known)):
            yield field, f"{', '.join(unknown)}: {report.query_type} has {', '.join(known)}"
    if kind.dimensions[0] not in report.group_by:
        yield "group_by", f"{report.query_type} are by {kind.dimensions[0]}: add it"

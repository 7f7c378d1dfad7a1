"""Generates `cache_pipeline.json`, the Grafana dashboard, from the metrics of the API.

    python deploy/grafana/dashboard.py > deploy/grafana/cache_pipeline.json

Any API process exposes the whole deployment, so every query takes the maximum over API processes and never their sum.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizTooltipOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, TooltipDisplayMode, VisibilityMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_KINDS = {"stat": stat.Panel, "states": statetimeline.Panel, "series": timeseries.Panel}
Panel = stat.Panel | statetimeline.Panel | timeseries.Panel


@dataclass(frozen=True)
class PanelSpec:
    """One panel.

    Attributes:
        title: What it shows.
        description: How to read it.
        queries: Each an expression and the legend of its series.
        unit: The unit by Grafana's name.
        kind: A line for each series, one number, or a bar of states.
        width: Width in columns, of 24.
    """

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "series"
    width: int = 8


ROWS: dict[str, list[PanelSpec]] = {
    "Health": [
        PanelSpec(
            "API processes",
            "Processes that Prometheus can scrape.",
            [('sum(up{job="cache_pipeline"})', "")],
            "none",
            "stat",
            3,
        ),
        PanelSpec(
            "Workers",
            "Workers that are alive.",
            [('max(cache_pipeline_workers{state="alive"})', "")],
            "none",
            "stat",
            3,
        ),
        PanelSpec(
            "Queued jobs", "Jobs that wait for a worker.", [("max(cache_pipeline_queue_depth)", "")], "none", "stat", 3
        ),
        PanelSpec(
            "Dead letters",
            "Jobs and messages of the last day that are not retried.",
            [("sum(max by (kind) (cache_pipeline_dead_letters))", "")],
            "none",
            "stat",
            3,
        ),
        PanelSpec(
            "Stores",
            "1 if PostgreSQL, Redis, the queue or the edge store answers.",
            [("min by (dependency) (cache_pipeline_dependency_up)", "{{dependency}}")],
            "none",
            "states",
            12,
        ),
    ],
    "Answers": [
        PanelSpec(
            "Requests by tier",
            "hot is Redis, history is PostgreSQL, job is a 202, none is everything else, such as errors.",
            [
                (
                    "sum by (tier) (max by (tier, result) (rate(cache_pipeline_requests_total[$__rate_interval])))",
                    "{{tier}}",
                )
            ],
            "reqps",
        ),
        PanelSpec(
            "Answers by result",
            "A 5xx is a fault of the API, of a store or of the vendor.",
            [
                (
                    "sum by (result) (max by (tier, result) (rate(cache_pipeline_requests_total[$__rate_interval])))",
                    "{{result}}",
                )
            ],
            "reqps",
        ),
        PanelSpec(
            "Response time",
            "Median and 99th percentile of each tier.",
            [
                (
                    f"histogram_quantile({share}, max by (tier, le) (rate(cache_pipeline_request_seconds_bucket[$__rate_interval])))",
                    f"{{{{tier}}}} p{share * 100:.0f}",
                )
                for share in (0.5, 0.99)
            ],
            "s",
        ),
    ],
    "Jobs": [
        PanelSpec(
            "Jobs by state",
            "Open jobs, and jobs that finished within a day.",
            [("max by (state) (cache_pipeline_jobs)", "{{state}}")],
        ),
        PanelSpec(
            "Wait of the oldest job",
            "More than five minutes raises a critical alert.",
            [("max(cache_pipeline_queue_oldest_seconds)", "wait")],
            "s",
        ),
        PanelSpec(
            "From request to answer",
            "Median and 95th percentile for queries that stored data could not answer: waiting for a worker, then for the vendor.",
            [
                (
                    f"histogram_quantile({share}, max by (le, lane)"
                    " (rate(cache_pipeline_first_answer_seconds_bucket[$__rate_interval])))",
                    f"{{{{lane}}}} p{share * 100:.0f}",
                )
                for share in (0.5, 0.95)
            ],
            "s",
        ),
        PanelSpec(
            "Jobs failed in an hour",
            "By the kind of problem.",
            [("max by (kind) (cache_pipeline_jobs_failed)", "{{kind}}")],
        ),
        PanelSpec(
            "Requests that joined a job",
            "Each would otherwise have been another query to the vendor (G20).",
            [("max(rate(cache_pipeline_single_flight_waits_total[$__rate_interval]))", "joined")],
            "reqps",
        ),
        PanelSpec(
            "Single-flight waits",
            "Jobs that wait for the fetch of another job or process, of a whole answer or one chunk, instead of repeating it (G20).",
            [
                (
                    "max by (scope) (rate(cache_pipeline_single_flight_wait_seconds_count[$__rate_interval]))",
                    "{{scope}}",
                )
            ],
            "ops",
        ),
    ],
    "Vendor": [
        PanelSpec(
            "Requests per minute by answer",
            "There should never be a 429.",
            [
                (
                    "60 * max by (account, client, code) (rate(cache_pipeline_upstream_requests_total[$__rate_interval]))",
                    "{{account}} {{client}} {{code}}",
                )
            ],
            "cpm",
        ),
        PanelSpec(
            "Remaining quota by lane",
            "Requests that each lane may send now, over all OAuth clients. At 0 for interactive, users wait.",
            [
                (
                    "sum by (account, lane) (max by (account, client, lane) (cache_pipeline_quota_remaining))",
                    "{{account}} {{lane}}",
                )
            ],
        ),
        PanelSpec(
            "State of the OAuth clients",
            "Available, throttled, refreshing its token, or refused by the login.",
            [
                (
                    "max by (account, client, state) (cache_pipeline_quota_state)",
                    "{{account}} {{client}} {{state}}",
                )
            ],
            "none",
            "states",
        ),
        PanelSpec(
            "Age of the access tokens",
            "Tokens are renewed at four fifths of their lifetime (G23).",
            [("max by (account, client) (cache_pipeline_token_age_seconds)", "{{account}} {{client}}")],
            "s",
        ),
        PanelSpec(
            "Throttled for",
            "Time until an OAuth client may send again, as the vendor asked.",
            [("max by (account, client) (cache_pipeline_quota_throttled_seconds)", "{{account}} {{client}}")],
            "s",
        ),
    ],
    "Reports": [
        PanelSpec(
            "Provisional figures overdue, relative to freshness",
            "How long they have been due to be fetched again; an alert fires at 1.",
            [
                (
                    "max by (report) (cache_pipeline_report_overdue_seconds)"
                    " / max by (report) (cache_pipeline_report_freshness_seconds)",
                    "{{report}}",
                )
            ],
            "none",
        ),
        PanelSpec(
            "Missing partitions",
            "Partitions since a report's start that history lacks, though they could have been fetched.",
            [("max by (report) (cache_pipeline_report_missing_partitions)", "{{report}}")],
            "none",
        ),
        PanelSpec(
            "Watermark lag",
            "Age of the newest watermark in history.",
            [("max by (report) (cache_pipeline_watermark_lag_seconds)", "{{report}}")],
            "s",
        ),
        PanelSpec(
            "Lag of published files",
            "Final figures that history has and the published Parquet files lack.",
            [("max by (report) (cache_pipeline_edge_behind_seconds)", "{{report}}")],
            "s",
        ),
        PanelSpec(
            "Completeness verdicts in an hour",
            "Truncated and sparse answers were fetched again in parts; incomplete answers were discarded (G22).",
            [("sum by (verdict) (max by (report, verdict) (cache_pipeline_completeness_verdicts))", "{{verdict}}")],
        ),
    ],
}


def build() -> str:
    """Return the dashboard as JSON."""
    board = (
        dashboard.Dashboard("cache_pipeline")
        .uid("cache-pipeline")
        .tags(["cache_pipeline"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    numbers = itertools.count(1)
    for title, panels in ROWS.items():
        board = board.with_row(dashboard.Row(title).id(next(numbers)))
        for spec in panels:
            board = board.with_panel(_panel(spec).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _panel(spec: PanelSpec) -> Panel:
    panel = _KINDS[spec.kind]().title(spec.title).description(spec.description).unit(spec.unit).datasource(_SOURCE)
    panel = panel.span(spec.width).height(4 if spec.kind == "stat" or spec.width > 8 else 8)
    # Set the defaults explicitly, because a panel without options gets null.
    match panel:
        case timeseries.Panel():
            panel = (
                panel.show_points(VisibilityMode.NEVER)
                .min(0)
                .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
            )
        case statetimeline.Panel():
            panel = panel.row_height(0.9)
        case stat.Panel():
            panel = panel.graph_mode(BigValueGraphMode.AREA).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    for place, (expression, legend) in enumerate(spec.queries):
        query = prometheus.Dataquery().expr(expression).ref_id("ABCD"[place]).legend_format(legend).datasource(_SOURCE)
        panel = panel.with_target(query.range())
    return panel


if __name__ == "__main__":
    sys.stdout.write(build())

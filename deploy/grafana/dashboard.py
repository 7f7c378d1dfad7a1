"""Makes `cache_pipeline.json`, the Grafana dashboard, from what the gateway's /metrics tells.

    python deploy/grafana/dashboard.py > deploy/grafana/cache_pipeline.json

Any gateway tells of the whole deployment, so every query takes the largest of what several gateways say, and adds up none.
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
class Shown:
    """One panel.

    Attributes:
        title, told: what it shows, and what to make of it.
        queries: each an expression and the legend of its series.
        unit: Grafana's name of it.
        kind: a line for each series, one number, or a bar of states.
        width: of the 24 columns.
    """

    title: str
    told: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "series"
    width: int = 8


ROWS: dict[str, list[Shown]] = {
    "Is it well": [
        Shown(
            "Gateways", "Those that Prometheus can read.", [('sum(up{job="cache_pipeline"})', "")], "none", "stat", 3
        ),
        Shown(
            "Workers", "Those that are there.", [('max(cache_pipeline_workers{state="alive"})', "")], "none", "stat", 3
        ),
        Shown("Waiting jobs", "Not begun yet.", [("max(cache_pipeline_queue_depth)", "")], "none", "stat", 3),
        Shown(
            "Parked in a day",
            "Nobody begins them again.",
            [("sum(max by (scope) (cache_pipeline_dead_letters))", "")],
            "none",
            "stat",
            3,
        ),
        Shown(
            "Stores",
            "1 where PostgreSQL, Redis, the queue and the edge store answer.",
            [("min by (dependency) (cache_pipeline_dependency_up)", "{{dependency}}")],
            "none",
            "states",
            12,
        ),
    ],
    "Answers": [
        Shown(
            "Requests by tier",
            "hot is Redis, history PostgreSQL, job a 202; none are errors and all else.",
            [
                (
                    "sum by (tier) (max by (tier, result) (rate(cache_pipeline_requests_total[$__rate_interval])))",
                    "{{tier}}",
                )
            ],
            "reqps",
        ),
        Shown(
            "Answers by result",
            "5xx is our fault or a store's.",
            [
                (
                    "sum by (result) (max by (tier, result) (rate(cache_pipeline_requests_total[$__rate_interval])))",
                    "{{result}}",
                )
            ],
            "reqps",
        ),
        Shown(
            "Time to answer",
            "Half, and 99 of a hundred, of the answers of each tier.",
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
        Shown(
            "Jobs by state",
            "Open ones, and those that ended within a day.",
            [("max by (state) (cache_pipeline_jobs)", "{{state}}")],
        ),
        Shown(
            "The oldest waiting job",
            "More than five minutes wakes somebody.",
            [("max(cache_pipeline_queue_oldest_seconds)", "waits")],
            "s",
        ),
        Shown(
            "From question to answer",
            "Half, and 95 of a hundred, of what nothing kept could answer: waiting for a worker, then for the vendor.",
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
        Shown(
            "Failed in an hour",
            "By the kind of problem.",
            [("max by (kind) (cache_pipeline_jobs_failed)", "{{kind}}")],
        ),
        Shown(
            "Questions that joined another's job",
            "Each would have been a query of the vendor (G20).",
            [("max(rate(cache_pipeline_single_flight_waits_total[$__rate_interval]))", "joined")],
            "reqps",
        ),
        Shown(
            "Waits for what somebody else is fetching",
            "By jobs of workers, of a whole answer or of one chunk: each would have been asked of the vendor twice (G20).",
            [
                (
                    "max by (scope) (rate(cache_pipeline_single_flight_wait_seconds_count[$__rate_interval]))",
                    "{{what}}",
                )
            ],
            "ops",
        ),
    ],
    "The vendor": [
        Shown(
            "Requests a minute by answer",
            "429 should never be among them.",
            [
                (
                    "60 * max by (platform, client, code) (rate(cache_pipeline_upstream_requests_total[$__rate_interval]))",
                    "{{platform}} {{client}} {{code}}",
                )
            ],
            "cpm",
        ),
        Shown(
            "What each lane could send now",
            "Of all OAuth clients together. Interactive at 0 means that people wait.",
            [
                (
                    "sum by (platform, lane) (max by (platform, client, lane) (cache_pipeline_quota_remaining))",
                    "{{platform}} {{lane}}",
                )
            ],
        ),
        Shown(
            "State of the OAuth clients",
            "available, throttled, refreshing its token, or refused at the login.",
            [
                (
                    "max by (platform, client, state) (cache_pipeline_quota_state)",
                    "{{platform}} {{client}} {{state}}",
                )
            ],
            "none",
            "states",
        ),
        Shown(
            "Age of the access tokens",
            "Renewed at four fifths of their life (G23).",
            [("max by (platform, client) (cache_pipeline_token_age_seconds)", "{{platform}} {{client}}")],
            "s",
        ),
        Shown(
            "Paused for",
            "Seconds until an OAuth client may send again, as the vendor said.",
            [("max by (platform, client) (cache_pipeline_quota_throttled_seconds)", "{{platform}} {{client}}")],
            "s",
        ),
    ],
    "Reports": [
        Shown(
            "Age of provisional figures, in what is allowed",
            "1 is as old as the declaration lets them grow; an alert fires at 2.",
            [
                (
                    "max by (report) (cache_pipeline_report_age_seconds)"
                    " / max by (report) (cache_pipeline_report_freshness_seconds)",
                    "{{report}}",
                )
            ],
            "none",
        ),
        Shown(
            "Behind the clock",
            "From the newest watermark that history holds to now.",
            [("max by (report) (cache_pipeline_watermark_lag_seconds)", "{{report}}")],
            "s",
        ),
        Shown(
            "What the edge lacks",
            "Final figures that history holds and the published Parquet does not.",
            [("max by (report) (cache_pipeline_edge_behind_seconds)", "{{report}}")],
            "s",
        ),
        Shown(
            "Verdicts within an hour",
            "Truncated and sparse answers were fetched again in parts; incomplete answers were discarded (G22).",
            [("sum by (verdict) (max by (report, verdict) (cache_pipeline_completeness_verdicts))", "{{verdict}}")],
        ),
    ],
}


def built() -> str:
    """The dashboard as JSON."""
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
        for shown in panels:
            board = board.with_panel(_panel(shown).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _panel(shown: Shown) -> Panel:
    panel = _KINDS[shown.kind]().title(shown.title).description(shown.told).unit(shown.unit).datasource(_SOURCE)
    panel = panel.span(shown.width).height(4 if shown.kind == "stat" or shown.width > 8 else 8)
    # Said although they are the defaults, for a panel that says nothing gets null for its options.
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
    for place, (expression, legend) in enumerate(shown.queries):
        query = prometheus.Dataquery().expr(expression).ref_id("ABCD"[place]).legend_format(legend).datasource(_SOURCE)
        panel = panel.with_target(query.range())
    return panel


if __name__ == "__main__":
    sys.stdout.write(built())

"""The metrics for Prometheus, and for Datadog through OpenMetrics: requests, jobs, workers, quota (G19), reports, stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from cache_pipeline.api.monitoring.counters import (
    SINGLE_FLIGHT_SCOPES,
    SINGLE_FLIGHT_WAITS,
    Distribution,
    TimingDefinition,
)
from cache_pipeline.api.monitoring.health import check_dependencies
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.bootstrap.reports import configured_days
from cache_pipeline.query.completeness import Verdict
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Tier
from cache_pipeline.service.status import missing_partitions, overdue_since
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline.storage.ttl import report_freshness
from cache_pipeline.upstream.quota import ClientState

logger = logging.getLogger(__name__)
_PREFIX = "cache_pipeline"
#: Every class is exposed from the start, so that a rate can be computed before its first answer.
_NO_ANSWERS = dict.fromkeys(("2xx", "3xx", "4xx", "429", "5xx", "none"), 0)
#: Likewise, so that an alert on the rate of errors sees the first one.
_NO_ERRORS = {("none", "5xx"): 0.0}
_NO_SINGLE_FLIGHT_WAITS = {
    (scope,): Distribution(0.0, (0.0,) * (len(SINGLE_FLIGHT_WAITS.buckets) + 1)) for scope in SINGLE_FLIGHT_SCOPES
}
#: Less than the ten seconds that Prometheus waits for a scrape.
_TIMEOUT_SECONDS = 4.0


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """Return the families that were gathered before, because gathering is asynchronous and collecting is not."""
        return self._families


def wants_open_metrics(accept: str | None) -> bool:
    """Return whether a caller accepts OpenMetrics."""
    return accept is not None and "application/openmetrics-text" in accept


async def render_metrics(query_service: QueryService, *, is_open: bool) -> tuple[bytes, str]:
    """Return every metric as text, and its content type: OpenMetrics, or Prometheus' own.

    If a store is unavailable, only its own metrics are missing, and `dependency_up` shows which store it is.
    """
    groups = (
        _counter_metrics,
        _job_metrics,
        _worker_metrics,
        _quota_metrics,
        _report_metrics,
        _coverage_metrics,
        _edge_metrics,
        _dependency_metrics,
    )
    families = await asyncio.gather(*(_or_empty(group(query_service)) for group in groups))
    registry = CollectorRegistry()
    registry.register(_Families(family for group in families for family in group))
    if is_open:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST


async def _or_empty(group: Awaitable[list[Metric]]) -> list[Metric]:
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await group
    except Exception as error:  # noqa: BLE001 - the other groups are still exposed
        logger.warning("some metrics are unavailable: %s", type(error).__name__)
        return []


def _gauge_by(label: str, name: str, description: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", description, labels=[label])
    for label_value, value in values.items():
        gauge.add_metric([label_value], value)
    return gauge


async def _counter_metrics(query_service: QueryService) -> list[Metric]:
    await query_service.counters.flush()
    totals = await query_service.counters.read()
    requests = CounterMetricFamily(
        f"{_PREFIX}_requests",
        "Requests to the HTTP API, by the tier that answered and the result",
        labels=["tier", "result"],
    )
    for labels, count in sorted({**_NO_ERRORS, **totals.requests}.items()):
        requests.add_metric(labels, count)
    joined = CounterMetricFamily(
        f"{_PREFIX}_single_flight_waits",
        "Requests that joined the job of an equivalent request",
        value=totals.joined_requests,
    )
    retries = CounterMetricFamily(
        f"{_PREFIX}_job_retries", "Jobs retried after a failure that may pass", value=totals.job_retries
    )
    refused = CounterMetricFamily(
        f"{_PREFIX}_refused_keys", "Requests without a key that works, refused with 401", labels=["reason"]
    )
    for reason, count in totals.refused_keys.items():
        refused.add_metric([reason], count)
    single_flight_waits = {**_NO_SINGLE_FLIGHT_WAITS, **totals.timings[SINGLE_FLIGHT_WAITS]}
    timings = {**totals.timings, SINGLE_FLIGHT_WAITS: single_flight_waits}
    return [requests, joined, retries, refused, *(_histogram(*each) for each in timings.items())]


def _histogram(timing: TimingDefinition, distributions: Mapping[tuple[str, ...], Distribution]) -> Metric:
    family = HistogramMetricFamily(f"{_PREFIX}_{timing.name}", timing.help, labels=list(timing.labels))
    bounds = [*map(str, timing.buckets), "+Inf"]
    for labels, each in distributions.items():
        family.add_metric(labels, list(zip(bounds, accumulate(each.counts), strict=True)), each.seconds)
    return family


async def _job_metrics(query_service: QueryService) -> list[Metric]:
    jobs, backlog = await query_service.jobs.counts(), await query_service.status_queries.job_backlog()
    return [
        _gauge_by(
            "state", "jobs", "Open jobs, and jobs that finished within a day", {str(k): v for k, v in jobs.items()}
        ),
        GaugeMetricFamily(f"{_PREFIX}_queue_depth", "Jobs waiting for a worker", value=jobs[JobState.queued]),
        GaugeMetricFamily(
            f"{_PREFIX}_queue_oldest_seconds",
            "Time the oldest waiting job has waited",
            value=backlog.oldest_seconds,
        ),
        _gauge_by("kind", "dead_letters", "Dead-lettered jobs and messages of the last day", backlog.dead_letters),
        _gauge_by(
            "kind", "jobs_failed", "Jobs that failed within the last hour, by the kind of problem", backlog.failed
        ),
    ]


async def _worker_metrics(query_service: QueryService) -> list[Metric]:
    workers = await query_service.heartbeats.count()
    return [
        _gauge_by(
            "state",
            "workers",
            "Workers alive, and workers lost within 15 minutes without shutting down in order",
            {"alive": workers.alive, "lost": workers.lost},
        )
    ]


async def _dependency_metrics(query_service: QueryService) -> list[Metric]:
    checks, edge = await asyncio.gather(check_dependencies(query_service), query_service.manifest_cache.status())
    up = {each.name: float(each.ok) for each in checks}
    if edge is not None:
        # The API answers without the edge store, so it is no part of readiness.
        up["edge"] = float(edge.is_readable)
    return [_gauge_by("dependency", "dependency_up", "1 if a service that the API depends on answers", up)]


async def _report_metrics(query_service: QueryService) -> list[Metric]:
    now, reports = query_service.clock(), query_service.reports
    series = {name: query_service.report_service.series(report) for name, report in reports.items()}
    by_series = await query_service.status_queries.freshness(series.values())
    freshness = {name: by_series[each.id] for name, each in series.items() if each.id in by_series}
    verdicts = GaugeMetricFamily(
        f"{_PREFIX}_completeness_verdicts",
        "Vendor answers of the last hour, by completeness verdict",
        labels=["report", "verdict"],
    )
    counts = await query_service.status_queries.verdict_counts(series.values(), now)
    for name, each in series.items():
        for verdict in Verdict:
            verdicts.add_metric([name, verdict], counts.get((each.id, verdict), 0))
    return [
        _gauge_by(
            "report",
            "watermark_lag_seconds",
            "Age of the watermark of a report's stored data",
            {name: _since(each.watermark, now) for name, each in freshness.items() if each.watermark},
        ),
        _gauge_by(
            "report",
            "report_age_seconds",
            "Age of a report's oldest provisional figures; 0 if all are final",
            {name: _since(each.provisional_fetched_at or now, now) for name, each in freshness.items()},
        ),
        _gauge_by(
            "report",
            "report_freshness_seconds",
            "How old a report's provisional figures may become before they are refetched",
            {name: report_freshness(report).total_seconds() for name, report in reports.items()},
        ),
        _gauge_by(
            "report",
            "report_partition_seconds",
            "Length of a report's partitions",
            {name: report.partition.step.nominal_length.total_seconds() for name, report in reports.items()},
        ),
        verdicts,
    ]


async def _coverage_metrics(query_service: QueryService) -> list[Metric]:
    now, service = query_service.clock(), query_service.report_service
    series = {name: service.series(report) for name, report in query_service.reports.items()}
    coverages = await asyncio.to_thread(service.history.coverages, list(series.values()))
    by_report = {name: (query_service.reports[name], coverages[each.id]) for name, each in series.items()}
    partition_days = configured_days(query_service.settings)
    return [
        _gauge_by(
            "report",
            "report_overdue_seconds",
            "How long a report's provisional figures have been due to be fetched again; 0 if none are",
            {
                name: _since(overdue_since(report, coverage, now) or now, now)
                for name, (report, coverage) in by_report.items()
            },
        ),
        _gauge_by(
            "report",
            "report_missing_partitions",
            "Partitions of a report that history lacks, though they could have been fetched",
            {
                name: missing_partitions(report, partition_days, coverage, now)
                for name, (report, coverage) in by_report.items()
            },
        ),
    ]


async def _edge_metrics(query_service: QueryService) -> list[Metric]:
    status = await query_service.manifest_cache.status()
    if status is None or status.manifest is None:
        return []
    series_on_edge = {
        name: query_service.report_service.series(each)
        for name, each in query_service.reports.items()
        if Tier.edge in each.publish.tiers
    }
    freshness = await query_service.status_queries.freshness(series_on_edge.values())
    behind: dict[str, float] = {}
    for name, series in series_on_edge.items():
        history, dataset = freshness.get(series.id), status.manifest.datasets.get(name)
        if history is not None and history.complete_through is not None:
            through = (dataset.complete_through if dataset else None) or history.complete_from
            behind[name] = max(0.0, _since(through or history.complete_through, history.complete_through))
    return [
        _gauge_by(
            "report",
            "edge_behind_seconds",
            "How far the published files of a report lag behind history's final data",
            behind,
        )
    ]


async def _quota_metrics(query_service: QueryService) -> list[Metric]:
    quotas = {name: (policy, await quota.snapshot()) for name, (policy, quota) in query_service.quotas.items()}
    client = ["account", "client"]
    requests = CounterMetricFamily(
        f"{_PREFIX}_upstream_requests", "Requests to the vendor, by the class of its answer", labels=[*client, "code"]
    )
    remaining = GaugeMetricFamily(
        f"{_PREFIX}_quota_remaining", "Requests that a lane may send now", labels=[*client, "lane"]
    )
    states = GaugeMetricFamily(
        f"{_PREFIX}_quota_state", "1 for the current state of an OAuth client", labels=[*client, "state"]
    )
    throttled = GaugeMetricFamily(
        f"{_PREFIX}_quota_throttled_seconds", "Seconds until an OAuth client may send again", labels=client
    )
    paused = CounterMetricFamily(
        f"{_PREFIX}_quota_paused_seconds", "Total time that the vendor's answers paused an OAuth client", labels=client
    )
    ages = GaugeMetricFamily(f"{_PREFIX}_token_age_seconds", "Age of the shared access token", labels=client)
    for account, (policy, clients) in quotas.items():
        for each in clients:
            names = [account, each.client_id]
            for code, count in {**_NO_ANSWERS, **each.answers_total}.items():
                requests.add_metric([*names, code], count)
            paused.add_metric(names, each.throttled_total_s)
            if each.token_age_s is not None:
                ages.add_metric(names, each.token_age_s)
            throttled.add_metric(names, each.throttled_for_s)
            for state in ClientState:
                states.add_metric([*names, state], float(each.state is state))
            for lane in Lane:
                is_paused = each.throttled_for_s or each.state is ClientState.refused
                remaining.add_metric([*names, lane], 0 if is_paused else max(0, policy.slots(lane) - each.used))
    return [requests, remaining, states, throttled, paused, ages, *await _month_metrics(query_service)]


async def _month_metrics(query_service: QueryService) -> list[Metric]:
    allotted = GaugeMetricFamily(
        f"{_PREFIX}_month_requests_allotted", "Requests that the settings allot to a month", labels=["account"]
    )
    used = GaugeMetricFamily(f"{_PREFIX}_month_requests_used", "Requests of this month so far", labels=["account"])
    expected = GaugeMetricFamily(
        f"{_PREFIX}_month_requests_expected", "Requests of this month, if the present pace stays", labels=["account"]
    )
    for account, (_, quota) in query_service.quotas.items():
        if (month := await quota.allotment(query_service.report_service.clock())) is not None:
            allotted.add_metric([account], month.monthly)
            used.add_metric([account], month.used)
            expected.add_metric([account], month.expected)
    return [allotted, used, expected]


def _since(instant: datetime, now: datetime) -> float:
    return (now - instant).total_seconds()

"""What Prometheus, and by OpenMetrics Datadog, may read: requests, jobs, workers, quota (G19), reports and stores."""

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

from cache_pipeline.api.jobs.job import JobState
from cache_pipeline.api.monitoring.counters import FLIGHT_WAITS, FLIGHTS, Distribution, TimingDefinition
from cache_pipeline.api.monitoring.health import dependencies
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.query.completeness import Verdict
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Tier
from cache_pipeline.storage.ttl import report_freshness
from cache_pipeline.upstream.quota import ClientState

_LOG = logging.getLogger(__name__)
_PREFIX = "cache_pipeline"
#: So that a rate can be made of a class before its first answer.
_NO_ANSWERS = dict.fromkeys(("2xx", "3xx", "4xx", "429", "5xx", "none"), 0)
#: Likewise: the first error is not the one that nobody hears of.
_NO_ERRORS = {("none", "5xx"): 0.0}
_NO_FLIGHTS = {(kind,): Distribution(0.0, (0.0,) * (len(FLIGHT_WAITS.buckets) + 1)) for kind in FLIGHTS}
#: Below the ten seconds that Prometheus waits for a scrape.
_PATIENCE_SECONDS = 4.0


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """What was gathered before: gathering is asynchronous, and collecting is not."""
        return self._families


async def render_metrics(gateway: QueryService, accept: str | None) -> tuple[bytes, str]:
    """Every metric as text, and its content type: OpenMetrics where that is asked for.

    A store that is away takes only what it would have said with it: whoever watches hears that it is away.
    """
    groups = (_counted, _jobs, _workers, _quota, _reports, _edge, _dependencies)
    families = await asyncio.gather(*(_at_best(group(gateway)) for group in groups))
    registry = CollectorRegistry()
    registry.register(_Families(family for group in families for family in group))
    if accept is not None and "application/openmetrics-text" in accept:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST


async def _at_best(group: Awaitable[list[Metric]]) -> list[Metric]:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await group
    except Exception as error:  # noqa: BLE001 - whatever it is, the other groups can still be told
        _LOG.warning("some metrics cannot be told: %s", type(error).__name__)
        return []


def _gauge_by(label: str, name: str, told: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", told, labels=[label])
    for value, number in values.items():
        gauge.add_metric([value], number)
    return gauge


async def _counted(gateway: QueryService) -> list[Metric]:
    await gateway.meter.tell()
    counted = await gateway.meter.read()
    requests = CounterMetricFamily(
        f"{_PREFIX}_requests", "Requests to the HTTP API by the tier that answered", labels=["tier", "result"]
    )
    for labels, count in sorted({**_NO_ERRORS, **counted.requests}.items()):
        requests.add_metric(labels, count)
    waits = CounterMetricFamily(
        f"{_PREFIX}_single_flight_waits",
        "Requests that joined the job of another of the same meaning",
        value=counted.joined,
    )
    retries = CounterMetricFamily(
        f"{_PREFIX}_job_retries", "Jobs begun again after a failure that may pass", value=counted.retries
    )
    timed = {**counted.timed, FLIGHT_WAITS: {**_NO_FLIGHTS, **counted.timed[FLIGHT_WAITS]}}
    return [requests, waits, retries, *(_histogram(*each) for each in timed.items())]


def _histogram(timed: TimingDefinition, found: Mapping[tuple[str, ...], Distribution]) -> Metric:
    family = HistogramMetricFamily(f"{_PREFIX}_{timed.name}", timed.told, labels=list(timed.labels))
    bounds = [*map(str, timed.buckets), "+Inf"]
    for labels, each in found.items():
        family.add_metric(labels, list(zip(bounds, accumulate(each.counts), strict=True)), each.seconds)
    return family


async def _jobs(gateway: QueryService) -> list[Metric]:
    jobs, trouble = await gateway.jobs.counts(), await gateway.standing.trouble()
    return [
        _gauge_by(
            "state", "jobs", "Jobs: open ones, and those that ended within a day", {str(k): v for k, v in jobs.items()}
        ),
        GaugeMetricFamily(f"{_PREFIX}_queue_depth", "Jobs that wait for a worker", value=jobs[JobState.queued]),
        GaugeMetricFamily(
            f"{_PREFIX}_queue_oldest_seconds",
            "How long the oldest waiting job has waited",
            value=trouble.oldest_seconds,
        ),
        _gauge_by("what", "parked", "Jobs and messages that nobody begins again; of the last day", trouble.parked),
        _gauge_by("kind", "jobs_failed", "Jobs that failed within an hour, by the kind of problem", trouble.failed),
    ]


async def _workers(gateway: QueryService) -> list[Metric]:
    present = await gateway.presence.present()
    return [
        _gauge_by(
            "state",
            "workers",
            "Workers that are there, and those that fell silent within 15 minutes without taking leave",
            {"alive": present.alive, "vanished": present.vanished},
        )
    ]


async def _dependencies(gateway: QueryService) -> list[Metric]:
    found, published = await asyncio.gather(dependencies(gateway), gateway.published.seen())
    up = {each.name: float(each.ok) for each in found}
    if published is not None:
        # Of no account for answers, and so no part of readiness.
        up["edge"] = float(published.ok)
    return [_gauge_by("dependency", "dependency_up", "1 where a thing that the gateway stands on answers", up)]


async def _reports(gateway: QueryService) -> list[Metric]:
    now, reports = gateway.clock(), gateway.reports
    series = {name: gateway.service.series(report) for name, report in reports.items()}
    held = await gateway.standing.held(series.values())
    known = {name: held[each.id] for name, each in series.items() if each.id in held}
    verdicts = GaugeMetricFamily(
        f"{_PREFIX}_judged_answers", "Answers of the vendor within an hour, by verdict", labels=["report", "verdict"]
    )
    counted = await gateway.standing.verdicts(series.values(), now)
    for name, each in series.items():
        for verdict in Verdict:
            verdicts.add_metric([name, verdict], counted.get((each.id, verdict), 0))
    return [
        _gauge_by(
            "report",
            "watermark_lag_seconds",
            "Seconds from the watermark of what history holds of a report to now",
            {name: _since(each.watermark, now) for name, each in known.items() if each.watermark},
        ),
        _gauge_by(
            "report",
            "report_age_seconds",
            "Age of the oldest provisional figures that history holds of a report; 0 where all are final",
            {name: _since(each.provisional_fetched_at or now, now) for name, each in known.items()},
        ),
        _gauge_by(
            "report",
            "report_freshness_seconds",
            "How old provisional figures of a report may grow, by its declaration",
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


async def _edge(gateway: QueryService) -> list[Metric]:
    published = await gateway.published.seen()
    if published is None or published.manifest is None:
        return []
    on_edge = {
        name: gateway.service.series(each) for name, each in gateway.reports.items() if Tier.edge in each.publish.tiers
    }
    held = await gateway.standing.held(on_edge.values())
    behind: dict[str, float] = {}
    for name, series in on_edge.items():
        history, dataset = held.get(series.id), published.manifest.datasets.get(name)
        if history is not None and history.complete_through is not None:
            through = (dataset.complete_through if dataset else None) or history.complete_from
            behind[name] = max(0.0, _since(through or history.complete_through, history.complete_through))
    return [_gauge_by("report", "edge_behind_seconds", "By how much the edge lacks final figures of history", behind)]


async def _quota(gateway: QueryService) -> list[Metric]:
    quotas = {name: (policy, await quota.snapshot()) for name, (policy, quota) in gateway.quotas.items()}
    client = ["platform", "client"]
    calls = CounterMetricFamily(
        f"{_PREFIX}_upstream_requests", "Requests to the vendor by the class of its answer", labels=[*client, "code"]
    )
    room = GaugeMetricFamily(
        f"{_PREFIX}_quota_remaining", "Requests that a lane could send now", labels=[*client, "lane"]
    )
    states = GaugeMetricFamily(
        f"{_PREFIX}_quota_state", "1 for the state that an OAuth client is in", labels=[*client, "state"]
    )
    throttled = GaugeMetricFamily(
        f"{_PREFIX}_quota_throttled_seconds", "Until an OAuth client may send again", labels=client
    )
    paused = CounterMetricFamily(
        f"{_PREFIX}_quota_paused_seconds", "For how long answers paused an OAuth client in all", labels=client
    )
    ages = GaugeMetricFamily(f"{_PREFIX}_token_age_seconds", "Since the access token was asked for", labels=client)
    for platform, (policy, clients) in quotas.items():
        for each in clients:
            names = [platform, each.client_id]
            for code, count in {**_NO_ANSWERS, **each.answers_total}.items():
                calls.add_metric([*names, code], count)
            paused.add_metric(names, each.throttled_total_s)
            if each.token_age_s is not None:
                ages.add_metric(names, each.token_age_s)
            throttled.add_metric(names, each.throttled_for_s)
            for state in ClientState:
                states.add_metric([*names, state], float(each.state is state))
            for lane in Lane:
                stopped = each.throttled_for_s or each.state is ClientState.refused
                room.add_metric([*names, lane], 0 if stopped else max(0, policy.slots(lane) - each.used))
    return [calls, room, states, throttled, paused, ages]


def _since(instant: datetime, now: datetime) -> float:
    return (now - instant).total_seconds()

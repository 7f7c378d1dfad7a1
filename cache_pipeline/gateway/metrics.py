"""What Prometheus, and by OpenMetrics Datadog, may read: requests, jobs, quota (G19), and how far reports lag behind."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from cache_pipeline.gateway.gateway import Gateway
from cache_pipeline.gateway.job import JobState
from cache_pipeline.gateway.meter import BUCKETS
from cache_pipeline.upstream.quota import ClientQuota, ClientState, Lane, QuotaPolicy

_PREFIX = "cache_pipeline"
Snapshot = Mapping[str, tuple[QuotaPolicy, list[ClientQuota]]]


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """What was gathered before: gathering is asynchronous, and collecting is not."""
        return self._families


async def exposed(gateway: Gateway, accept: str | None) -> tuple[bytes, str]:
    """Every metric as text, and its content type: OpenMetrics where that is asked for."""
    await gateway.meter.tell()
    counted, jobs = await gateway.meter.read(), await gateway.jobs.counts()
    quotas = {name: (policy, await quota.snapshot()) for name, (policy, quota) in gateway.quotas.items()}
    lags = await _lags(gateway)
    registry = CollectorRegistry()
    registry.register(
        _Families([*_requests(counted), *_jobs(jobs), *_quota(quotas), _gauge_by("report", "watermark_lag_seconds",
            "Seconds from the watermark of what history holds of a report to now", lags)])
    )  # fmt: skip
    if accept is not None and "application/openmetrics-text" in accept:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST


async def _lags(gateway: Gateway) -> dict[str, float]:
    service, now = gateway.service, gateway.clock()
    series = {name: service.series(report) for name, report in gateway.reports.items()}
    held = await asyncio.gather(*(asyncio.to_thread(service.history.coverage, each) for each in series.values()))
    return {
        name: (now - coverage.watermark).total_seconds()
        for name, coverage in zip(series, held, strict=True)
        if coverage.watermark is not None
    }


def _gauge_by(label: str, name: str, told: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", told, labels=[label])
    for value, number in values.items():
        gauge.add_metric([value], number)
    return gauge


def _requests(counted: Mapping[str, float]) -> Generator[Metric]:
    requests = CounterMetricFamily(
        f"{_PREFIX}_requests", "Requests to the HTTP API by the tier that answered", labels=["tier", "result"]
    )
    for name, count in counted.items():
        if name.startswith("requests|"):
            requests.add_metric(name.split("|")[1:], count)
    yield requests
    latency = HistogramMetricFamily(
        f"{_PREFIX}_request_seconds", "From a request's first byte to its answer's last", labels=["tier"]
    )
    for tier in sorted({name.split("|")[1] for name in counted if name.startswith("bucket|")}):
        total, buckets = 0.0, list[tuple[str, float]]()
        for place in range(len(BUCKETS) + 1):
            total += counted.get(f"bucket|{tier}|{place}", 0.0)
            buckets.append((str(BUCKETS[place]) if place < len(BUCKETS) else "+Inf", total))
        latency.add_metric([tier], buckets, counted.get(f"seconds|{tier}", 0.0))
    yield latency
    yield CounterMetricFamily(
        f"{_PREFIX}_single_flight_waits",
        "Requests that joined the job of another of the same meaning",
        value=counted.get("collapsed", 0.0),
    )


def _jobs(jobs: Mapping[JobState, int]) -> Generator[Metric]:
    yield _gauge_by(
        "state", "jobs", "Jobs: open ones, and those that ended within a day", {str(k): v for k, v in jobs.items()}
    )
    yield GaugeMetricFamily(f"{_PREFIX}_queue_depth", "Jobs that wait for a worker", value=jobs[JobState.queued])


def _quota(quotas: Snapshot) -> Generator[Metric]:
    client = ["platform", "client"]
    calls = CounterMetricFamily(
        f"{_PREFIX}_upstream_requests", "Requests to the vendor by what became of them", labels=[*client, "code"]
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
    for platform, (policy, clients) in quotas.items():
        for each in clients:
            names = [platform, each.client_id]
            calls.add_metric([*names, "429"], each.rejected_total)
            calls.add_metric([*names, "other"], max(0, each.granted_total - each.rejected_total))
            throttled.add_metric(names, each.throttled_for_s)
            for state in ClientState:
                states.add_metric([*names, state], float(each.state is state))
            for lane in Lane:
                free = 0 if each.throttled_for_s else max(0, policy.slots(lane) - each.used)
                room.add_metric([*names, lane], free)
    yield from (calls, room, states, throttled)

"""Genesys Cloud CX: conversation aggregates, in one request or by job.

Paths, fields and states are those of the vendor's public API; aggregate jobs are marked preview there and may change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import ClassVar

import pyarrow as pa

from cache_pipeline.query.filters import Filter, Predicate
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, Fold, Kind, SchemaMismatch, arrow_schema, rows_to_table, snake_case
from cache_pipeline.upstream.errors import JobFailed, JobGone, raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.platforms.base import Capabilities, Job, JobStatus, Page
from cache_pipeline.upstream.platforms.jobs import as_submitted, cursor_pages, get_object
from cache_pipeline.upstream.platforms.payload import (
    interval_of,
    mapping_of,
    mappings_of,
    optional_text,
    read_object,
    text_of,
)
from cache_pipeline.upstream.quota import Lane

_FAMILIES = ("conversations",)
_PAGE_SIZE = 1000
_DEAD_STATES = {"FAILED": JobFailed, "CANCELLED": JobFailed, "EXPIRED": JobGone}

#: Statistics kept for each kind of metric, by the prefix of its name: t* are durations in milliseconds, n* counts,
#: o* ratios, whose parts add where the ratio itself does not. (statistic, kind, may be null, fold)
_STATISTICS: Mapping[str, tuple[tuple[str, Kind, bool, Fold], ...]] = {
    "n": (("count", Kind.integer, False, Fold.sum),),
    "t": (
        ("count", Kind.integer, False, Fold.sum),
        ("sum", Kind.number, False, Fold.sum),
        ("min", Kind.number, True, Fold.min),
        ("max", Kind.number, True, Fold.max),
    ),
    "o": (("numerator", Kind.number, False, Fold.sum), ("denominator", Kind.number, False, Fold.sum)),
}
#: nConversations counts distinct ones, of which one is in several buckets; of the ratios, service levels are known to be
#: made of counts.
_NOT_ADDITIVE = frozenset({"nConversations"})
_ADDITIVE_RATIOS = frozenset({"oServiceLevel", "oCallbackServiceLevel"})
#: A conversation event has one value of these at most; of the others (skills, divisions, groups) it may have several.
_SINGLE_VALUED = frozenset(
    {"direction", "mediaType", "messageType", "originatingDirection", "provider", "purpose", "queueId", "userId"}
)


def _fold(metric: str, fold: Fold) -> Fold:
    additive = metric in _ADDITIVE_RATIOS if metric.startswith("o") else metric not in _NOT_ADDITIVE
    return fold if additive else Fold.none


def _column_name(metric: str, statistic: str) -> str:
    return snake_case(metric) if metric.startswith("n") else f"{snake_case(metric)}_{statistic}"


class Genesys:
    """Platform ``genesys``; ``query_type`` is an aggregates family, ``conversations``."""

    name: ClassVar[str] = "genesys"
    #: 300 requests a minute for each client-credentials token; no header tells what is left, only Retry-After on 429.
    capabilities: ClassVar[Capabilities] = Capabilities(
        requests=300,
        window_seconds=60,
        sends_remaining=False,
        reports_percent=False,
        has_watermark=False,
        omits_empty=True,
        max_body_bytes=512_000,
    )

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @staticmethod
    def review(report: Report) -> Iterable[tuple[str, str]]:
        """Families that are not supported, and metrics whose kind the name does not tell."""
        if report.query_type not in _FAMILIES:
            yield "query_type", f"{report.query_type!r} is not an aggregates family: use {', '.join(_FAMILIES)}"
        odd = [name for name in report.metrics if name[:1] not in _STATISTICS]
        yield from _review_filters(report.filters)
        if odd:
            yield "metrics", f"{', '.join(odd)}: Genesys metrics start with n (count), t (duration) or o (ratio)"

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Dimensions, then each metric's statistics; durations are in milliseconds."""
        return (
            *(
                Column(
                    snake_case(name),
                    Kind.dimension,
                    nullable=True,
                    source=name,
                    multivalued=name not in _SINGLE_VALUED,
                )
                for name in report.group_by
            ),
            *(
                Column(
                    _column_name(metric, statistic),
                    kind,
                    nullable,
                    f"{statistic} of {metric}",
                    metric,
                    _fold(metric, fold),
                )
                for metric in report.metrics
                for statistic, kind, nullable, fold in _STATISTICS[metric[0]]
            ),
        )

    async def submit(self, report: Report, interval: Interval, lane: Lane) -> Job:
        """Send the query; a synchronous one comes back with its answer."""
        base = f"/api/v2/analytics/{report.query_type}/aggregates"
        body: dict[str, object] = {
            "interval": str(interval),
            "granularity": report.granularity,
            "timeZone": report.time_zone,
            "groupBy": list(report.group_by),
            "metrics": list(report.metrics),
        }
        if report.filters:
            body["filter"] = _vendor_filter(report.filters)
        if report.delivery == "sync":
            # A query changes nothing at the vendor, so a repeat costs quota but does no harm.
            extensions = {"lane": lane, "idempotent": True}
            response = await self._client.post(f"{base}/query", json=body, extensions=extensions)
            raise_for_refusal(response)
            return Job("", response.extensions["oauth_client"], lane, answer=read_object(response))
        body["pageSize"] = _PAGE_SIZE
        response = await self._client.post(f"{base}/jobs", json=body, extensions={"lane": lane})
        raise_for_refusal(response)
        job_id = text_of(read_object(response), "jobId")
        return Job(f"{base}/jobs/{job_id}", response.extensions["oauth_client"], lane)

    async def status(self, job: Job) -> JobStatus:
        """FULFILLED is done; FAILED, CANCELLED and EXPIRED are failures; no percentage exists."""
        if job.answer is not None:
            return JobStatus(done=True)
        answer = await get_object(self._client, job, job.id)
        state = text_of(answer, "state")
        if state in _DEAD_STATES:
            raise _DEAD_STATES[state](
                job.id.rpartition("/")[2], optional_text(answer, "errorMessage") or f"it is {state}"
            )
        return JobStatus(done=state == "FULFILLED")

    async def pages(self, job: Job, report: Report) -> AsyncIterator[Page]:
        """Follow the cursor; the last page has none."""
        schema = arrow_schema(self.columns(report))
        if job.answer is not None:
            yield self._page(job.answer, report, schema)
            return
        async for answer in cursor_pages(self._client, job, f"{job.id}/results", {}):
            yield self._page(answer, report, schema)

    async def cancel(self, job: Job) -> None:
        """Delete the job, which frees its place among the vendor's concurrent ones."""
        if job.answer is None:
            raise_for_refusal(await self._client.delete(job.id, extensions=as_submitted(job)))

    def _page(self, answer: Mapping[str, object], report: Report, schema: pa.Schema) -> Page:
        rows = [row for result in mappings_of(answer, "results") for row in self._rows(result, report)]
        return Page(rows_to_table(rows, schema), watermark=None)

    def _rows(self, result: Mapping[str, object], report: Report) -> Iterable[Mapping[str, object]]:
        group = mapping_of(result, "group")
        dimensions = {snake_case(name): group.get(name) for name in report.group_by}
        for bucket in mappings_of(result, "data"):
            interval = interval_of(bucket, "interval")
            stats = {text_of(entry, "metric"): mapping_of(entry, "stats") for entry in mappings_of(bucket, "metrics")}
            unknown = stats.keys() - set(report.metrics)
            if unknown:
                raise SchemaMismatch(f"metrics {sorted(unknown)} were not asked for")
            yield {
                "interval_start": interval.start,
                "interval_end": interval.end,
                **dimensions,
                **{
                    # A metric that had no event is left out; for what adds up that means nought.
                    _column_name(metric, statistic): stats.get(metric, {}).get(statistic, None if nullable else 0)
                    for metric in report.metrics
                    for statistic, _, nullable, _ in _STATISTICS[metric[0]]
                },
            }


def _review_filters(filters: Filter) -> Iterable[tuple[str, str]]:
    predicates = [*filters.predicates, *(each for clause in filters.clauses for each in clause.predicates)]
    if any(each.operator == "notIn" and each.values != (None,) for each in predicates):
        yield "filters", "Genesys has no notIn: list the values to keep with operator in"
    elif filters.clauses and any(len(each.values) > 1 for each in predicates):
        yield (
            "filters",
            "Genesys has two levels of conditions, and this filter needs three: within clauses joined by or, give each "
            "predicate one value",
        )


def _matches(predicate: Predicate) -> list[dict[str, object]]:
    """One predicate of the vendor's for each value; any of them must hold."""
    if predicate.operator == "notIn":
        return [{"dimension": predicate.dimension, "operator": "exists"}]
    return [
        {"dimension": predicate.dimension, "operator": "notExists"}
        if value is None
        else {"dimension": predicate.dimension, "operator": "matches", "value": value}
        for value in predicate.values
    ]


def _vendor_filter(filters: Filter) -> dict[str, object]:
    """Our filter in the vendor's two levels: or-ed over the values of each predicate, or and-ed over each alternative."""
    if filters.clauses:
        joined = [
            ("and", [found for each in clause.predicates for found in _matches(each)]) for clause in filters.clauses
        ]
    else:
        joined = [("or", _matches(each)) for each in filters.predicates]
    return {"type": filters.type, "clauses": [{"type": kind, "predicates": found} for kind, found in joined]}

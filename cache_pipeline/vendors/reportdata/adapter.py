"""Adapter for the guide's report-data contract: query by report id, poll with a percentage, rows by cursor (G1, G2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import ClassVar

from cache_pipeline.errors import SchemaMismatch, UpstreamJobFailed
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, Fold, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.request_lane import RequestLane
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.http_jobs import cursor_pages, get_object
from cache_pipeline.vendors.json_body import read_instant, read_mappings, read_object, read_optional_text, read_text

_QUERY = "/api/v2/analytics/reportdata/query"
_PAGE_SIZE = 1000
_STATUSES = ("queued", "processing", "completed", "failed")
_TIME_GROUPINGS: Mapping[str, str] = {
    "PT15M": "by15Minutes",
    "PT30M": "by30Minutes",
    "PT1H": "byHour",
    "P1D": "byDay",
    "P1W": "byWeek",
}

#: What the contract's own columns mean; an account may have others.
_DEFINITIONS: Mapping[str, str] = {
    "queueId": "id of the queue",
    "userId": "id of the agent",
    "mediaType": "medium, such as voice, chat or email",
    "offered": "contacts offered to a queue",
    "answered": "contacts that an agent answered",
    "abandoned": "contacts that gave up before an agent answered",
    "answeredWithinTarget": "contacts answered within the service level's time",
    "transferred": "contacts that an agent transferred",
    "waitMs": "time that contacts waited in a queue, total in milliseconds",
    "handleMs": "talk, hold and after-call work of agents, total in milliseconds",
    "talkMs": "time that agents and contacts talked, total in milliseconds",
    "heldMs": "time that contacts were on hold, total in milliseconds",
    "acwMs": "after-call work of agents, total in milliseconds",
}


def _describe(name: str) -> str:
    definition = _DEFINITIONS.get(name) or ("total in milliseconds" if name.endswith("Ms") else "")
    return f"{name}: {definition}" if definition else name


class ReportDataAdapter:
    """Platform ``reportdata``. Metrics are whole numbers in columns with the vendor's names in to_snake_case."""

    name: ClassVar[str] = "reportdata"
    #: 60 requests a minute for each token in a sliding window, with the remaining count in a header (G15, G17).
    capabilities: ClassVar[Capabilities] = Capabilities(
        requests=60,
        window_seconds=60,
        has_remaining_header=True,
        has_cancel=False,
    )

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @staticmethod
    def check_declaration(report: Report) -> Iterable[tuple[str, str]]:
        """Yield a granularity without a time grouping, a delivery and filters that the contract does not support."""
        if report.granularity not in _TIME_GROUPINGS:
            yield "granularity", f"{report.granularity} has no timeGrouping; use {', '.join(_TIME_GROUPINGS)}"
        if report.fetch.delivery != "async":
            yield "fetch.delivery", "reportdata answers by job only; remove the field or set async"
        if report.filters.declaration.clauses or any(
            None in predicate.values for predicate in report.filters.declaration.predicates
        ):
            yield "filters", "reportdata supports one level of predicates with values; remove clauses and null values"

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Return the dimensions, then one integer column for each metric; all are counts or sums, so they add up."""
        return (
            *(
                Column(
                    to_snake_case(name), ColumnKind.dimension, nullable=True, description=_describe(name), source=name
                )
                for name in report.group_by
            ),
            *(
                Column(to_snake_case(name), ColumnKind.integer, description=_describe(name), source=name, fold=Fold.sum)
                for name in report.metrics
            ),
        )

    @staticmethod
    def end_column(report: Report) -> str | None:
        """Return None: no row is open when it is sent."""
        return None

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        """Send the query (G1)."""
        body: dict[str, object] = {
            "reportId": report.query_type,
            "timeGrouping": _TIME_GROUPINGS[report.granularity],
            "interval": str(interval),
            "groupBy": list(report.group_by),
            "columns": list(report.metrics),
        }
        if report.time_zone != "UTC":
            body["timeZone"] = report.time_zone
        if report.filters:
            body["filters"] = report.filters.declaration.model_dump(mode="json", include={"type", "predicates"})
        response = await self._client.post(f"{_QUERY}/async", json=body, extensions={"lane": lane})
        raise_for_refusal(response)
        return VendorJob(read_text(read_object(response), "id"), response.extensions["oauth_client"], lane)

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """Poll the job (G2)."""
        answer = await get_object(self._client, job, f"{_QUERY}/{job.id}")
        status = read_text(answer, "status")
        if status == "failed":
            raise UpstreamJobFailed(job.id, read_optional_text(answer, "errorMessage") or "the vendor gave no reason")
        if status not in _STATUSES:
            raise SchemaMismatch(f"job {job.id} has unknown status {status!r}; expected one of {', '.join(_STATUSES)}")
        percent = answer.get("percentComplete")
        return VendorJobStatus(status == "completed", float(percent) if isinstance(percent, int | float) else None)

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Follow the cursor; the last page has none."""
        schema = to_arrow_schema(self.columns(report))
        results = cursor_pages(self._client, job, f"{_QUERY}/{job.id}/results", {"pageSize": str(_PAGE_SIZE)})
        async for answer in results:
            rows = [self._row(row, report) for row in read_mappings(answer.body, "rows")]
            page = ResultPage(rows_to_table(rows, schema), _watermark(answer.body), size=answer.size)
            del answer, rows
            yield page

    async def cancel(self, job: VendorJob) -> None:
        """Do nothing: the contract has no cancel, and the job ends by itself."""

    def _row(self, row: Mapping[str, object], report: Report) -> Mapping[str, object]:
        values: dict[str, object] = {
            "interval_start": read_instant(row, "intervalStart"),
            "interval_end": read_instant(row, "intervalEnd"),
        }
        rest = {name: value for name, value in row.items() if name not in ("intervalStart", "intervalEnd")}
        values.update({to_snake_case(name): rest.pop(name, None) for name in report.group_by})
        values.update({to_snake_case(name): value for name, value in rest.items()})
        return values


def _watermark(answer: Mapping[str, object]) -> datetime | None:
    return read_instant(answer, "dataAvailabilityDate") if read_optional_text(answer, "dataAvailabilityDate") else None

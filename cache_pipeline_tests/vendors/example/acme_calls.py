"""A vendor as another package would add it: one module, registered by an entry point.

Its API answers ``POST /figures`` at once: one figure for each queue and hour. A login exchanges a client's id and secret for a token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import ClassVar

import httpx

from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, rows_to_table, to_arrow_schema
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.columns import count_column, key_column
from cache_pipeline.vendors.json_body import read_instant, read_mappings, read_object
from cache_pipeline.vendors.spec import AddressedAccount, DoctorContext, VendorSpec


class AcmeAccount(AddressedAccount, frozen=True):
    """An account of Acme Calls, which names a site."""

    site: str


class AcmeAdapter:
    """Calls by queue and hour."""

    name: ClassVar[str] = "acme_calls"
    capabilities: ClassVar[Capabilities] = Capabilities(requests=100, window_seconds=1, has_remaining_header=False)

    def __init__(self, client: httpx.AsyncClient, site: str) -> None:
        self._client = client
        self._site = site

    @staticmethod
    def check_declaration(report: Report) -> Iterable[tuple[str, str]]:
        if report.group_by != ("queue",) or report.metrics != ("calls",):
            yield "metrics", "there are only calls by queue"

    @staticmethod
    def end_column(report: Report) -> str | None:
        return None

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        return (*map(key_column, report.group_by), *map(count_column, report.metrics))

    async def submit(self, report: Report, interval: Interval, lane: Lane) -> VendorJob:
        query = {"site": self._site, "from": str(interval).split("/")[0], "to": str(interval).split("/")[1]}
        response = await self._client.post("/figures", json=query, extensions={"lane": lane, "idempotent": True})
        raise_for_refusal(response)
        return VendorJob("", response.extensions["oauth_client"], lane, answer=read_object(response))

    async def status(self, job: VendorJob) -> VendorJobStatus:
        return VendorJobStatus(is_done=True)

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        rows = [
            {
                "interval_start": read_instant(row, "from"),
                "interval_end": read_instant(row, "to"),
                "queue": row["queue"],
                "calls": row["calls"],
            }
            for row in read_mappings(job.answer or {}, "figures")
        ]
        yield ResultPage(rows_to_table(rows, to_arrow_schema(self.columns(report))), watermark=None)

    async def cancel(self, job: VendorJob) -> None:
        return


async def check_site(context: DoctorContext[AcmeAccount]) -> list[CheckResult]:
    """Check that the account's site exists."""
    response = await context.client.get(f"/sites/{context.account.site}", extensions={"lane": Lane.interactive})
    status = CheckStatus.ok if response.is_success else CheckStatus.failed
    return [CheckResult(f"site of {context.account_id}", status, f"{context.account.site}: {response.status_code}")]


VENDOR = VendorSpec(
    name=AcmeAdapter.name,
    account=AcmeAccount,
    adapter=AcmeAdapter,
    create_adapter=lambda client, account: AcmeAdapter(client, account.site),
    personal_dimensions=frozenset({"caller"}),
    check_permissions=check_site,
    example={"query_type": "calls", "group_by": "[queue]", "metrics": "[calls]", "volume_metric": "calls"},
)

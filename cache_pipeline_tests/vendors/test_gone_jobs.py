"""Tests that a job unknown to the vendor is distinguished from a failed one, because submitting again can help."""

import httpx
import pytest

from cache_pipeline.errors import UpstreamJobFailed, UpstreamJobGone
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.vendors.workbench import (
    genesys_report,
    mock_client,
    read_pages,
    reportdata_report,
    submitted_job,
)


@pytest.mark.parametrize("kind", [GenesysAdapter, ReportDataAdapter])
@pytest.mark.parametrize("status", [404, 410])
async def test_unknown_job_is_gone_for_status_and_pages(
    kind: type[GenesysAdapter] | type[ReportDataAdapter], status: int
) -> None:
    body = {"message": "Unable to find a query job", "code": "not.found", "status": status, "contextId": "c-1"}
    report = genesys_report() if kind is GenesysAdapter else reportdata_report()
    async with mock_client(lambda _: httpx.Response(status, json=body)) as client:
        platform = kind(client)
        with pytest.raises(UpstreamJobGone, match="upstream job job-1 is gone: Unable to find a query job"):
            await platform.status(submitted_job())
        with pytest.raises(UpstreamJobGone):
            await read_pages(platform, submitted_job(), report)


async def test_expired_job_is_gone_and_failed_job_is_not() -> None:
    async with mock_client(lambda _: httpx.Response(200, json={"state": "EXPIRED"})) as client:
        with pytest.raises(UpstreamJobGone, match="its state is EXPIRED"):
            await GenesysAdapter(client).status(submitted_job())
    async with mock_client(lambda _: httpx.Response(200, json={"state": "FAILED", "errorMessage": "no"})) as client:
        with pytest.raises(UpstreamJobFailed, match="failed: no") as failed:
            await GenesysAdapter(client).status(submitted_job())
    assert not isinstance(failed.value, UpstreamJobGone)

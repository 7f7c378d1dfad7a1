"""A job that the vendor no longer knows is told apart from one that failed: submitting anew can help."""

import httpx
import pytest

from cache_pipeline.errors import UpstreamJobFailed, UpstreamJobGone
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.vendors.workbench import all_pages, genesys_report, held_job, reportdata_report, said


@pytest.mark.parametrize("kind", [GenesysAdapter, ReportDataAdapter])
@pytest.mark.parametrize("status", [404, 410])
async def test_an_unknown_job_is_gone_whether_asked_for_its_state_or_its_rows(
    kind: type[GenesysAdapter] | type[ReportDataAdapter], status: int
) -> None:
    body = {"message": "Unable to find a query job", "code": "not.found", "status": status, "contextId": "c-1"}
    report = genesys_report() if kind is GenesysAdapter else reportdata_report()
    async with said(lambda _: httpx.Response(status, json=body)) as client:
        platform = kind(client)
        with pytest.raises(UpstreamJobGone, match="upstream job job-1 is gone: Unable to find a query job"):
            await platform.status(held_job())
        with pytest.raises(UpstreamJobGone):
            await all_pages(platform, held_job(), report)


async def test_an_expired_job_is_gone_and_a_failed_one_is_not() -> None:
    async with said(lambda _: httpx.Response(200, json={"state": "EXPIRED"})) as client:
        with pytest.raises(UpstreamJobGone, match="it is EXPIRED"):
            await GenesysAdapter(client).status(held_job())
    async with said(lambda _: httpx.Response(200, json={"state": "FAILED", "errorMessage": "no"})) as client:
        with pytest.raises(UpstreamJobFailed, match="failed: no") as failed:
            await GenesysAdapter(client).status(held_job())
    assert not isinstance(failed.value, UpstreamJobGone)

"""Tests of malformed vendor answers: each is refused with the name of the field, never read in part."""

from typing import Any

import httpx
import pytest

from cache_pipeline.errors import SchemaMismatch, UpstreamFaulted, UpstreamRefused
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.names import ListedName
from cache_pipeline.vendors.base import VendorAdapter, VendorJob
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.lookups import LOOKUPS, read_lookup
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.vendors.genesys.test_details import rows_report
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    genesys_report,
    mock_client,
    read_pages,
    reportdata_report,
    submitted_job,
)

GOOD_ROW = {
    "intervalStart": "2024-06-10T00:00:00.000Z",
    "intervalEnd": "2024-06-10T01:00:00.000Z",
    "queueId": "q",
    "mediaType": "voice",
    "offered": 3,
    "handleMs": 200,
}
GOOD_BUCKET = {
    "interval": "2024-06-10T00:00:00.000Z/2024-06-10T01:00:00.000Z",
    "metrics": [{"metric": "nOffered", "stats": {"count": 3}}],
}
REPORTS = {ReportDataAdapter: reportdata_report(), GenesysAdapter: genesys_report()}
PLATFORMS = pytest.mark.parametrize("platform", [ReportDataAdapter, GenesysAdapter])


async def _pages(platform: type[ReportDataAdapter] | type[GenesysAdapter], response: httpx.Response) -> int:
    async with mock_client(lambda _: response) as client:
        return len(await read_pages(platform(client), submitted_job(), REPORTS[platform]))


async def _rows(**changes: Any) -> int:
    row = {name: value for name, value in (GOOD_ROW | changes).items() if value is not ...}
    return await _pages(ReportDataAdapter, httpx.Response(200, json={"rows": [row]}))


async def _bucket(**changes: Any) -> int:
    bucket = {name: value for name, value in (GOOD_BUCKET | changes).items() if value is not ...}
    body = {"results": [{"group": {"queueId": "q", "mediaType": "voice"}, "data": [bucket]}]}
    return await _pages(GenesysAdapter, httpx.Response(200, json=body))


async def test_unchanged_rows_are_accepted() -> None:
    assert await _rows() == 1
    assert await _bucket() == 1


@PLATFORMS
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>Bad gateway</html>", b'{"rows": [{"offered"', b'{"rows": []', b"\xff\xfe{}"),
        *(b"[]", b"null", b'"rows"', b"7"),
    ],
)
async def test_invalid_body_error_names_its_path(
    platform: type[ReportDataAdapter] | type[GenesysAdapter], body: bytes
) -> None:
    with pytest.raises(SchemaMismatch, match=r"job-1/results .*(not JSON|where an object was expected)"):
        await _pages(platform, httpx.Response(200, content=body))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"offered": ...}, r"lacks \['offered'\]"),
        ({"colour": "red"}, r"unknown \['colour'\]"),
        ({"offered": ..., "offred": 3}, r"lacks \['offered'\] and has unknown \['offred'\]"),
        ({"offered": None}, "offered is null"),
        ({"offered": "3"}, "offered is not int64"),
        ({"offered": True}, "offered holds a boolean"),
        ({"offered": 2.5}, "offered"),
        ({"offered": 2**70}, "offered is not int64"),
        ({"queueId": 7}, "queue_id is not string"),
        ({"intervalStart": ...}, "intervalStart is missing"),
        ({"intervalStart": 1718000000}, "intervalStart is int"),
        ({"intervalEnd": None}, "intervalEnd is missing"),
        ({"intervalStart": "yesterday"}, "intervalStart.*yesterday"),
        ({"intervalEnd": "2024-06-10T01:00:00"}, "intervalEnd.*offset"),
    ],
)
async def test_reportdata_row_error_names_the_column(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _rows(**changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"interval": ...}, "interval is missing"),
        ({"interval": "2024-06-10T00:00:00Z"}, "interval.*open"),
        ({"interval": "2024-06-10T01:00:00Z/2024-06-10T00:00:00Z"}, "interval.*reversed"),
        ({"interval": "now/later"}, "interval.*now"),
        ({"metrics": "nOffered"}, "metrics is str where a list"),
        ({"metrics": ["nOffered"]}, "metrics is str where an object"),
        ({"metrics": [{"stats": {}}]}, "metric is missing"),
        ({"metrics": [{"metric": "nOffered", "stats": []}]}, "stats is list where an object"),
        ({"metrics": [{"metric": "nOffered", "stats": {"count": None}}]}, "lacks its count; the answer has none"),
        ({"metrics": [{"metric": "nOffered", "stats": {"count": "many"}}]}, "n_offered is not int64"),
        ({"metrics": [{"metric": "nOffered", "stats": {"count": 1.5}}]}, "n_offered"),
    ],
)
async def test_genesys_bucket_error_names_the_field(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _bucket(**changes)


@pytest.mark.parametrize(("platform", "field"), [(ReportDataAdapter, "rows"), (GenesysAdapter, "results")])
@pytest.mark.parametrize("value", [{}, "", 0, False, "rows", 3])
async def test_value_of_wrong_type_is_not_an_empty_list(
    platform: type[ReportDataAdapter] | type[GenesysAdapter], field: str, value: object
) -> None:
    with pytest.raises(SchemaMismatch, match=rf"{field} is \w+ where a list was expected"):
        await _pages(platform, httpx.Response(200, json={field: value}))


@PLATFORMS
@pytest.mark.parametrize("cursors", [["a", "a"], ["a", "b", "a"], ["a", "b", "c", "b"]])
async def test_repeated_cursor_is_refused(
    platform: type[ReportDataAdapter] | type[GenesysAdapter], cursors: list[str]
) -> None:
    remaining = iter(cursors)
    async with mock_client(lambda _: httpx.Response(200, json={"cursor": next(remaining)})) as client:
        with pytest.raises(SchemaMismatch, match="its cursor does not advance"):
            await read_pages(platform(client), submitted_job(), REPORTS[platform])


@PLATFORMS
async def test_empty_cursor_ends_the_pages(platform: type[ReportDataAdapter] | type[GenesysAdapter]) -> None:
    assert await _pages(platform, httpx.Response(200, json={"cursor": ""})) == 1


async def test_empty_address_ends_a_listing() -> None:
    body = {"entities": [{"id": "q", "name": "Queue"}], "nextUri": ""}
    async with mock_client(lambda _: httpx.Response(200, json=body)) as client:
        pages = [page async for page in read_lookup(client, LOOKUPS[0])]
    assert pages == [{"q": ListedName("Queue")}]


@PLATFORMS
async def test_cursor_that_is_not_text_is_refused(platform: type[ReportDataAdapter] | type[GenesysAdapter]) -> None:
    with pytest.raises(SchemaMismatch, match="cursor is int"):
        await _pages(platform, httpx.Response(200, json={"cursor": 2}))


async def test_invalid_watermark_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match=r"dataAvailabilityDate.*soon"):
        await _pages(ReportDataAdapter, httpx.Response(200, json={"rows": [], "dataAvailabilityDate": "soon"}))


@PLATFORMS
@pytest.mark.parametrize("body", [{}, {"id": None, "jobId": None}, {"id": "", "jobId": ""}, {"id": 7, "jobId": 7}])
async def test_submit_response_without_job_id_is_refused(
    platform: type[ReportDataAdapter] | type[GenesysAdapter], body: dict[str, object]
) -> None:
    async with mock_client(lambda _: httpx.Response(200, json=body)) as client:
        with pytest.raises(SchemaMismatch, match=r"(id|jobId) is"):
            await platform(client).submit(REPORTS[platform], DAY, Lane.interactive)


@PLATFORMS
@pytest.mark.parametrize("body", [{}, {"status": 3, "state": 3}, {"status": None, "state": None}])
async def test_poll_without_a_state_is_refused(
    platform: type[ReportDataAdapter] | type[GenesysAdapter], body: dict[str, object]
) -> None:
    async with mock_client(lambda _: httpx.Response(200, json=body)) as client:
        with pytest.raises(SchemaMismatch, match=r"(status|state) is"):
            await platform(client).status(submitted_job())


@PLATFORMS
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, UpstreamRefused), (429, UpstreamRefused), (500, UpstreamFaulted), (504, UpstreamFaulted)],
)
async def test_error_in_a_successful_answer_is_not_an_empty_page(
    platform: type[ReportDataAdapter] | type[GenesysAdapter], status: int, error: type[Exception]
) -> None:
    body = {"message": "something broke", "code": "some.code", "status": status, "contextId": "c-1", "errors": []}
    first = {"cursor": "next", "rows": [], "results": []}
    answers = iter([first, body])
    async with mock_client(lambda _: httpx.Response(200, json=next(answers))) as client:
        with pytest.raises(error, match=rf"{status}.*something broke.*c-1"):
            await read_pages(platform(client), submitted_job(), REPORTS[platform])


async def test_error_in_a_successful_answer_is_no_end_of_rows() -> None:
    body = {"message": "The request timed out.", "code": "request.timeout", "status": 504}
    rows = {"conversations": [], "cursor": "next", "dataAvailabilityDate": "2024-06-12T00:00:00Z"}
    answers = iter([rows, body])
    job = VendorJob(f"/api/v2/analytics/conversations/details/jobs/job-1?interval={DAY}", "beta", Lane.scheduled)
    async with mock_client(lambda _: httpx.Response(200, json=next(answers))) as client:
        with pytest.raises(UpstreamFaulted, match=r"504.*timed out"):
            await read_pages(GenesysAdapter(client), job, rows_report("conversations"))


async def test_error_in_a_successful_synchronous_answer_is_raised() -> None:
    body = {"message": "Reduce the interval", "code": "bad.request", "status": 400}
    async with mock_client(lambda _: httpx.Response(200, json=body)) as client:
        with pytest.raises(UpstreamRefused) as refused:
            await GenesysAdapter(client).submit(genesys_report(delivery="sync"), DAY, Lane.interactive)
    assert refused.value.is_too_large


@PLATFORMS
async def test_refusal_of_any_call_has_the_vendors_message(
    platform: type[ReportDataAdapter] | type[GenesysAdapter],
) -> None:
    body = {"code": "not.authorized", "message": "You are missing a permission: analytics:view", "contextId": "c-1"}
    report = REPORTS[platform]
    async with mock_client(lambda _: httpx.Response(403, json=body)) as client:
        adapter: VendorAdapter = platform(client)
        for call in (
            adapter.submit(report, DAY, Lane.interactive),
            adapter.status(submitted_job("/jobs/job-1")),
            read_pages(adapter, submitted_job("/jobs/job-1"), report),
        ):
            with pytest.raises(UpstreamRefused, match=r"403: You are missing a permission.*not\.authorized.*c-1"):
                await call

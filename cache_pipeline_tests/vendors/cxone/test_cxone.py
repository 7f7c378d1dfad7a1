"""Tests of the CXone adapter: exports by date, one CSV behind a signed URL, one call in thirty seconds."""

import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis.asyncio

from cache_pipeline.errors import SchemaMismatch, SettingsError, UpstreamJobFailed, UpstreamJobGone, UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.base import ResultPage, VendorJob
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter, access_key_login
from cache_pipeline.vendors.cxone.extract import read_extract
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    SECRETS,
    fetch_rows,
    genesys_report,
    mock_client,
    simulated_vendor,
)

#: No conversation crosses midnight; one call is allowed every 50 ms.
SETTINGS = INSTANT.model_copy(
    update={
        "conversations_per_working_day": 600,
        "organisation_zone": "UTC",
        "cxone_call_seconds": 0.05,
        "thread_share": 0.0,
    }
)
NOW = datetime(2024, 6, 12, 10, 0, 30, tzinfo=UTC)


def extract(**changes: Any) -> Report:
    base = {"platform": "cxone", "rows": "conversations", "group_by": [], "metrics": ["nOffered", "tTalk", "tHandle"]}
    return genesys_report(**(base | {"tiers": ["history"]} | changes))


@dataclass(frozen=True)
class Extraction:
    cxone: CxoneAdapter
    admin: httpx.AsyncClient
    clock: SettableClock
    sent: list[httpx.Request]

    async def files(self) -> int:
        calls = (await self.admin.get("/simulator/counters")).json()["calls"]
        return sum(call["count"] for call in calls if call["call"].startswith("GET /data-extraction-files"))


@asynccontextmanager
async def extraction(
    redis_client: redis.asyncio.Redis, settings: SimulatorSettings = SETTINGS
) -> AsyncGenerator[Extraction]:
    clock = SettableClock()

    class RecordingTransport(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request)
            # The vendor's clock only advances by the time between calls.
            clock.seconds += 2 * settings.cxone_call_seconds if request.url.path.startswith("/data-ext") else 0
            return await super().handle_async_request(request)

    sent: list[httpx.Request] = []
    with running_simulator(settings, clock=clock) as url:
        config = UpstreamConfig(
            account="cxone",
            base_url=url,
            login_url=f"{url}/authentication/v1/token/access-key",
            clients=(OAuthClient(client_id="alpha", client_secret=SECRETS["alpha"]),),
            policy=QuotaPolicy(limit=1, window_seconds=0.05, reserve=0),
        )
        async with (
            create_upstream_client(
                config, redis_client, login_request=access_key_login, transport=RecordingTransport()
            ) as client,
            httpx.AsyncClient(base_url=url) as admin,
        ):
            yield Extraction(CxoneAdapter(client, now=lambda: NOW), admin, clock, sent)


async def test_extract_rows_equal_those_of_genesys(
    shared_redis: redis.asyncio.Redis,
) -> None:
    report = extract()
    async with extraction(shared_redis) as vendor:
        rows = await fetch_rows(vendor.cxone, report)
    async with simulated_vendor(shared_redis, SETTINGS) as other:
        theirs = await fetch_rows(other.genesys, report.model_copy(update={"platform": "genesys"}))
    names = [name for name in rows.schema.names if name not in ("division_id", "ani", "dnis")]
    one, two = ({row["conversation_id"]: row for row in table.select(names).to_pylist()} for table in (rows, theirs))
    assert one == two
    assert len(one) > 300


async def test_grouped_report_counts_and_sums_the_extract(shared_redis: redis.asyncio.Redis) -> None:
    report = extract(rows=None, group_by=["queueId", "mediaType"], metrics=["nOffered", "nConnected", "tTalk"])
    async with extraction(shared_redis) as vendor:
        rows = await fetch_rows(vendor.cxone, report)
    async with simulated_vendor(shared_redis, SETTINGS) as other:
        sums = Counter[str]()
        for row in (await fetch_rows(other.genesys, extract(platform="genesys"))).to_pylist():
            sums["offered"] += row["n_offered"]
            sums["talk"] += row["t_talk"]
    assert sum(rows["n_offered"].to_pylist()) == sums["offered"] > 300
    assert sum(rows["t_talk_sum"].to_pylist()) == sums["talk"]
    assert sum(rows["n_connected"].to_pylist()) == sum(rows["t_talk_count"].to_pylist())


@pytest.mark.parametrize("changes", [{"rows": None, "group_by": ["queueId", "mediaType"]}, {"rows": "conversations"}])
def test_report_has_the_columns_of_another_vendor(changes: dict[str, Any]) -> None:
    report = extract(metrics=["nConnected", "nOffered", "tHandle", "tTalk"], **changes)
    # Whether a contact may have several values of a dimension is for each vendor to say.
    ours, theirs = (
        [replace(column, is_multivalued=False) for column in adapter.columns(report)]
        for adapter in (CxoneAdapter, GenesysAdapter)
    )
    assert ours == theirs


async def test_only_the_file_is_fetched_without_our_token(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis) as vendor:
        await fetch_rows(vendor.cxone, extract())
        files = await vendor.files()
    signed = {request.url.path.split("/")[1]: "authorization" in request.headers for request in vendor.sent}
    assert signed == {"authentication": False, "data-extraction": True, "data-extraction-files": False}
    assert files == 1
    kinds = [request.method for request in vendor.sent if request.url.path.startswith("/data-extraction/")]
    assert kinds == ["POST", "GET"], "the URL from the status is used while it is valid"


async def test_expired_url_is_requested_again(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis) as vendor:
        job = await vendor.cxone.submit(extract(), DAY, Lane.backfill)
        assert (await vendor.cxone.status(job)).is_done
        vendor.clock.seconds += 40
        pages = [page async for page in vendor.cxone.pages(job, extract())]
        files = await vendor.files()
    assert sum(page.rows.num_rows for page in pages) > 300
    assert files == 1


@pytest.mark.parametrize("included", [True, False])
async def test_end_date_never_loses_or_duplicates_rows(shared_redis: redis.asyncio.Redis, included: bool) -> None:
    settings = SETTINGS.model_copy(update={"cxone_end_date_included": included})
    afternoon = Interval(DAY.start + timedelta(hours=12), DAY.end)
    async with extraction(shared_redis, settings) as vendor:
        day_rows = await fetch_rows(vendor.cxone, extract())
        afternoon_rows = await fetch_rows(vendor.cxone, extract(), afternoon)
    starts = day_rows["conversation_start"].to_pylist()
    assert all(DAY.start <= start < DAY.end for start in starts)
    assert afternoon_rows.num_rows == sum(start >= afternoon.start for start in starts) > 100


@pytest.mark.parametrize("changes", [{}, {"rows": None, "group_by": ["queueId"]}])
async def test_loop_is_free_while_an_extract_is_read(
    shared_redis: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    reads = set[int]()

    def read(*arguments: Any) -> Iterator[pa.Table]:
        for page in read_extract(*arguments):
            reads.add(threading.get_ident())
            yield page

    monkeypatch.setattr("cache_pipeline.vendors.cxone.adapter.read_extract", read)
    async with extraction(shared_redis) as vendor:
        assert (await fetch_rows(vendor.cxone, extract(metrics=["nOffered"], **changes))).num_rows
    assert reads
    assert threading.get_ident() not in reads


@pytest.mark.parametrize("included", [True, False])
async def test_days_have_each_contact_once(shared_redis: redis.asyncio.Redis, included: bool) -> None:
    # Midnight UTC is at noon, so that some transferred contacts cross it.
    noon = {"organisation_zone": "Pacific/Auckland", "cxone_end_date_included": included}
    days = [DAY, Interval(DAY.end, DAY.end + timedelta(days=1))]
    busy = SETTINGS.model_copy(update=noon | {"conversations_per_working_day": 3000})
    async with extraction(shared_redis, busy) as vendor:
        each = [(await fetch_rows(vendor.cxone, extract(), day)).to_pylist() for day in days]
        both = (await fetch_rows(vendor.cxone, extract(), Interval(DAY.start, DAY.end + timedelta(days=1)))).to_pylist()
    assert sorted([*each[0], *each[1]], key=str) == sorted(both, key=str)
    assert any(row["conversation_end"] > DAY.end for row in each[0])


async def test_watermark_is_half_an_hour_behind(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis) as vendor:
        job = await vendor.cxone.submit(extract(), DAY, Lane.backfill)
        assert (await vendor.cxone.status(job)).is_done
        watermarks = {page.watermark async for page in vendor.cxone.pages(job, extract())}
    assert watermarks == {NOW - timedelta(minutes=30)}


def _answers(*statuses: int) -> Callable[[httpx.Request], httpx.Response]:
    remaining = list(statuses)

    def answer(_: httpx.Request) -> httpx.Response:
        status = remaining.pop(0)
        return httpx.Response(status, json="job-9" if status == 202 else {"message": "busy"})

    return answer


async def test_submit_retries_a_few_403s_from_a_busy_tenant() -> None:
    async with mock_client(_answers(403, 403, 202)) as client:
        job = await CxoneAdapter(client, now=lambda: NOW).submit(extract(), DAY, Lane.backfill)
    assert job.id.startswith("job-9?")
    async with mock_client(_answers(403, 403, 403, 403)) as client:
        with pytest.raises(UpstreamRefused, match="refused with 403: busy"):
            await CxoneAdapter(client).submit(extract(), DAY, Lane.backfill)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [("fail_jobs", UpstreamJobFailed, "a fault on demand"), ("vanish_jobs", UpstreamJobGone, "Unable to find")],
)
async def test_failed_or_lost_job_raises_with_a_reason(
    shared_redis: redis.asyncio.Redis, fault: str, error: type[UpstreamJobFailed], words: str
) -> None:
    async with extraction(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={fault: 1})
        job = await vendor.cxone.submit(extract(), DAY, Lane.backfill)
        with pytest.raises(error, match=words):
            await vendor.cxone.status(job)


SUBMITTED = VendorJob(f"job-1?interval={DAY}&at={NOW.isoformat()}", "alpha", Lane.scheduled)
HEADER = "ACD Call ID,Segment ID,Agent ID,Start Date,Talk Time,Handle Time\r\n"


async def _read(body: bytes, report: Report, columns: dict[str, str] | None = None) -> list[ResultPage]:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/file"):
            return httpx.Response(200, content=body)
        result = {"url": "https://elsewhere.invalid/file"}
        return httpx.Response(200, json={"jobStatus": {"id": "job-1", "status": "SUCCEEDED", "result": result}})

    async with mock_client(answer) as client:
        return [page async for page in CxoneAdapter(client, columns=columns).pages(SUBMITTED, report)]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Segment ID .segment., Start Date .start., Handle Time .tHandle., Talk Time .tTalk."),
        (
            b"ACD Call ID,Segment ID,Agent ID,Start Date\r\n",
            "lacks the columns Handle Time .tHandle., Talk Time .tTalk.",
        ),
        (
            f"{HEADER}c-1,s-1,,2024-06-10T08:00:00Z,5\r\n".encode(),
            "line 2 of the extract has a different number of cells",
        ),
        (f"{HEADER}c-1,s-1,,yesterday,5,9\r\n".encode(), "Start Date"),
        (f"{HEADER}c-1,s-1,,2024-06-10T08:00:00Z,long,9\r\n".encode(), "Talk Time is 'long'"),
        (f'{HEADER}"c-1,s-1,,2024-06-10T08:00:00Z,5,9\r\n'.encode(), "not CSV"),
        (f"{HEADER}\xff".encode("latin-1"), "not CSV in UTF-8"),
    ],
)
async def test_malformed_extract_error_names_the_problem(body: bytes, problem: str) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _read(body, extract(metrics=["tTalk", "tHandle"]))


async def test_csv_quotes_line_breaks_and_byte_order_mark() -> None:
    body = f'{HEADER}"a, ""b""\nc",s-1,,2024-06-10T08:00:00Z,1.5,2\r\n'.encode("utf-8-sig")
    (page,) = await _read(body, extract(metrics=["tTalk", "tHandle"]))
    (row,) = page.rows.to_pylist()
    assert (row["conversation_id"], row["t_talk"], row["t_handle"]) == ('a, "b"\nc', 1500, 2000)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query_type": "qm-workflows"}, "query_type"),
        ({"metrics": ["tAcw"]}, "metrics"),
        ({"rows": None, "group_by": ["wrapUpCode"]}, "group_by"),
        ({"max_query_interval": "P1M", "granularity": "P1D"}, "fetch.max_query_interval"),
        ({"filters": {"predicates": [{"dimension": "queueId", "values": ["a"]}]}}, "filters"),
    ],
)
def test_unsupported_declaration_is_reported_by_field(changes: dict[str, Any], field: str) -> None:
    assert [name for name, _ in CxoneAdapter.check_declaration(extract(**changes))] == [field]


SEEN_HEADER = (
    "ACD Call ID,Segment ID,Start Date,End Date,Direction,Channel Type,Agent 1 Name,Agent 1 ACD ID,Agent 1 Skills,ANI,DNIS,"
    "Disposition\r\n"
)
SEEN_LINES = (
    '71,g1,2024-06-10T08:00:00Z,2024-06-10T08:02:00Z,Inbound,Voice,"Doe, Jo",5,Sales,\\+15550123,\\+15550199,\r\n',
    '71,g2,2024-06-10T08:02:00Z,2024-06-10T08:05:00Z,Inbound,Voice,Roe,6,"Sales, Care",\\+15550123,\\+15550199,Done\r\n',
    "72,g3,2024-06-10T08:30:00Z,2024-06-10T08:31:00Z,Inbound,Voice,,,Sales,\\+15550124,\\+15550199,Abandoned\r\n",
)
TOTALS = {"rows": None, "group_by": [], "metrics": ["nOffered", "nConnected"]}


def _file(*lines: str, header: str = SEEN_HEADER) -> bytes:
    return (header + "".join(lines)).encode("utf-8-sig")


async def _rows(body: bytes, columns: dict[str, str] | None = None, **changes: Any) -> list[dict[str, Any]]:
    pages = await _read(body, extract(**changes), columns)
    return [row for page in pages for row in page.rows.to_pylist()]


async def test_contact_with_several_lines_counts_once() -> None:
    (row,) = await _rows(_file(*SEEN_LINES), **TOTALS)
    assert (row["n_offered"], row["n_connected"]) == (2, 1)


async def test_contact_counts_for_each_of_its_agents() -> None:
    rows = await _rows(_file(*SEEN_LINES), **(TOTALS | {"group_by": ["userId"]}))
    counted = {row["user_id"]: (row["n_offered"], row["n_connected"]) for row in rows}
    assert counted == {"5": (1, 1), "6": (1, 1), None: (1, 0)}
    columns = CxoneAdapter.columns(extract(**(TOTALS | {"group_by": ["userId"]})))
    assert columns[0].is_multivalued, "sums over agents would count a contact several times"


async def test_repeated_line_counts_once() -> None:
    (row,) = await _rows(_file(*SEEN_LINES, SEEN_LINES[2]), **TOTALS)
    assert row["n_offered"] == 2
    changed = SEEN_LINES[2].replace("Abandoned", "Done").replace("08:31", "08:32")
    with pytest.raises(SchemaMismatch, match="two different lines of segment g3: end is"):
        await _rows(_file(*SEEN_LINES, changed), **TOTALS)


@pytest.mark.parametrize("includes_end_date", [False, True])
async def test_contact_across_midnight_is_whole_in_the_day_of_its_first_segment(includes_end_date: bool) -> None:
    """A vendor whose dates select segments by their own start."""
    late = SEEN_LINES[0].replace("06-10T08:00", "06-09T23:55").replace("06-10T08:02", "06-10T00:10")
    lines = (late, SEEN_LINES[1].replace("08:02", "00:10").replace("08:05", "00:30"), SEEN_LINES[2])
    wanted: dict[str, str] = {}

    def vendor(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            wanted.update(json.loads(request.content))
            return httpx.Response(202, json="job-9")
        if request.url.path.endswith("/job-9"):
            done = {"status": "SUCCEEDED", "result": {"url": "https://files.invalid/x.csv"}}
            return httpx.Response(200, json={"jobStatus": done})
        dates = {line: line.split(",")[2][:10] for line in lines}
        chosen = [line for line in lines if wanted["startDate"] <= dates[line] < wanted["endDate"]]
        chosen += [line for line in lines if dates[line] == wanted["endDate"] and includes_end_date]
        return httpx.Response(200, content=_file(*chosen))

    async with mock_client(vendor) as client:
        adapter, found = CxoneAdapter(client, now=lambda: NOW), {}
        for day in (9, 10):
            interval = Interval(DAY.start.replace(day=day), DAY.end.replace(day=day + 1))
            rows = await fetch_rows(adapter, extract(metrics=["nOffered"]), interval)
            found[day] = {row["conversation_id"]: row["agents"] for row in rows.to_pylist()}
    assert found == {9: {"71": 2}, 10: {"72": 0}}


async def test_end_date_is_tomorrow_at_the_latest() -> None:
    wanted: list[Any] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        wanted.append(json.loads(request.content))
        return httpx.Response(202, json="job-9")

    async with mock_client(vendor) as client:
        for day in (DAY, Interval(NOW.replace(hour=0, minute=0, second=0), NOW.replace(hour=10, minute=0, second=0))):
            await CxoneAdapter(client, now=lambda: NOW).submit(extract(), day, Lane.backfill)
    assert [(each["startDate"], each["endDate"]) for each in wanted] == [
        ("2024-06-09", "2024-06-12"),
        ("2024-06-11", "2024-06-13"),
    ]


async def test_row_of_a_contact_joins_its_segments() -> None:
    # The lines of a contact need not be neighbours, nor in order.
    first, second = await _rows(_file(SEEN_LINES[1], SEEN_LINES[2], SEEN_LINES[0]), metrics=["nOffered", "nConnected"])
    row, other = (first, second) if first["conversation_id"] == "71" else (second, first)
    assert (row["ani"], row["dnis"], row["media_type"]) == ("+15550123", "+15550199", "Voice")
    assert (row["agents"], row["last_user_id"], row["n_offered"]) == (2, "6", 1)
    assert (row["conversation_start"].minute, row["conversation_end"].minute) == (0, 5)
    assert (other["agents"], other["last_user_id"], other["n_connected"]) == (0, None, 0)


async def test_headers_may_have_blanks_and_more_text() -> None:
    header = SEEN_HEADER.replace("ACD Call ID", "ACD Call ID (Master Contact ID)").replace(
        ",Segment ID", ", Segment ID"
    )
    (row,) = await _rows(_file(*SEEN_LINES, header=header), **TOTALS)
    assert row["n_offered"] == 2


async def test_cells_may_have_blanks() -> None:
    blank = SEEN_LINES[2].replace("Voice,,,", "Voice, , ,")
    (row,) = await _rows(_file(SEEN_LINES[0], " " + SEEN_LINES[1], blank), **TOTALS)
    assert (row["n_offered"], row["n_connected"]) == (2, 1)


async def test_column_given_twice_is_refused() -> None:
    header = SEEN_HEADER.replace("Disposition", "Agent 1 ACD ID")
    with pytest.raises(SchemaMismatch, match="several columns Agent 1 ACD ID"):
        await _rows(_file(*SEEN_LINES, header=header), **TOTALS)


async def test_column_names_are_account_settings() -> None:
    header = SEEN_HEADER.replace("ACD Call ID", "Master Contact").replace("Agent 1 ACD ID", "Agent No")
    with pytest.raises(
        SchemaMismatch, match=r"ACD Call ID .contact., Agent 1 ACD ID or Agent ID .userId.; it has Master"
    ):
        await _rows(_file(*SEEN_LINES, header=header), **TOTALS)
    (row,) = await _rows(
        _file(*SEEN_LINES, header=header), {"contact": "Master Contact", "userId": "Agent No"}, **TOTALS
    )
    assert (row["n_offered"], row["n_connected"]) == (2, 1)


async def test_unknown_column_setting_is_refused() -> None:
    async with mock_client(lambda _: httpx.Response(200)) as client:
        with pytest.raises(SettingsError, match="unknown agent; expected some of contact"):
            CxoneAdapter(client, columns={"agent": "Agent No"})


async def test_us_dates_are_refused_by_name() -> None:
    with pytest.raises(SchemaMismatch, match="Start Date"):
        await _rows(_file(SEEN_LINES[0].replace("2024-06-10T08:00:00Z", "06/10/2024 8:00:00 AM")), **TOTALS)


@pytest.mark.parametrize(
    ("status", "is_done"),
    [
        ({"id": "job-1", "status": "RUNNING", "result": {}}, False),
        ({"id": "job-1"}, False),
        ({"id": "job-1", "status": "SUCCEEDED", "result": {"url": "https://elsewhere.invalid/file"}}, True),
    ],
)
async def test_job_without_status_is_asked_again(status: dict[str, Any], is_done: bool) -> None:
    async with mock_client(lambda _: httpx.Response(200, json={"jobStatus": status})) as client:
        assert (await CxoneAdapter(client).status(SUBMITTED)).is_done is is_done

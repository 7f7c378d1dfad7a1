"""Names beside ids in answers: every format, renamed queues, hot answers and jobs."""

import csv
import io
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache_pipeline.account_upkeep import refresh_names
from cache_pipeline.client import AsyncClient
from cache_pipeline.vendors.genesys.lookups import LOOKUPS
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.query.declared import declared

NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)
QUEUES = [lookup for lookup in LOOKUPS if lookup.name == "queues"]
REPORT = declared(
    platform="genesys",
    query_type="conversations",
    time_zone="UTC",
    granularity="P1D",
    group_by=["queueId", "mediaType"],
    metrics=["nOffered"],
    volume_metric="nOffered",
    delivery="sync",
    start="2025-01-01",
)
URL = f"/v1/reports/queue_hour?interval={DAY}"
WAIT = {"Prefer": "wait=20"}


async def _refresh(api, at=NOW):
    await refresh_names(api.settings, "genesys/main", QUEUES, at)
    return (await api.vendor.get("/simulator/directory")).json()["queues"]


def _named(document):
    assert document["columns"] == [
        "interval_start", "interval_end", "media_type", "queue_id", "queue_name", "n_offered"
    ]  # fmt: skip
    return {row[3]: row[4] for row in document["rows"]}


async def test_every_format_has_names_after_ids(open_api):
    async with open_api(REPORT) as api:
        api.start_worker()
        names = await _refresh(api)
        plain = await api.http.get(URL, headers=WAIT)
        named = await api.http.get(f"{URL}&names=current")
        assert _named(named.json()) == names
        assert [row[:4] + row[5:] for row in named.json()["rows"]] == plain.json()["rows"]
        assert named.headers["ETag"] != plain.headers["ETag"]
        assert named.headers["Cache-Status"].endswith("detail=hot")
        again = await api.http.get(f"{URL}&names=true", headers={"If-None-Match": named.headers["ETag"]})
        assert again.status_code == 304
        lines = list(
            csv.DictReader(io.StringIO((await api.http.get(f"{URL}&names=true", headers={"Accept": "text/csv"})).text))
        )
        assert {line["queue_id"]: line["queue_name"] for line in lines} == names
        for media_type, read in (
            ("application/vnd.apache.arrow.stream", lambda body: pa.ipc.open_stream(body).read_all()),
            ("application/vnd.apache.parquet", lambda body: pq.read_table(io.BytesIO(body))),
        ):
            answer = await api.http.get(f"{URL}&names=current", headers={"Accept": media_type})
            rows = read(answer.content)
            assert dict(zip(rows["queue_id"].to_pylist(), rows["queue_name"].to_pylist(), strict=True)) == names
        body = {"interval": DAY, "names": "current"}
        assert (await api.http.post("/v1/reports/queue_hour", json=body)).json() == named.json()


async def test_renamed_queue_has_its_new_name_or_that_of_the_time(open_api):
    async with open_api(REPORT) as api:
        api.start_worker()
        before = await _refresh(api)
        renamed = next(iter(before))
        await api.vendor.post("/simulator/directory", json={"kind": "queues", "id": renamed, "name": "Invoices"})
        await _refresh(api, NOW + timedelta(days=1))
        current = await api.http.get(f"{URL}&names=current", headers=WAIT)
        then = await api.http.get(f"{URL}&names=then")
        assert _named(current.json()) == {**before, renamed: "Invoices"}
        assert _named(then.json()) == before


async def test_ids_without_names_are_their_own_names(open_api):
    async with open_api(REPORT) as api:
        api.start_worker()
        answer = (await api.http.get(f"{URL}&names=current", headers=WAIT)).json()
        assert all(id_ == name for id_, name in _named(answer).items())
        total = (await api.http.get(f"{URL}&group_by=&names=current")).json()
        assert total["columns"][2] == "n_offered"


@pytest.mark.parametrize("names", ["maybe", "", "TRUE"])
async def test_unknown_value_is_refused_by_name(open_api, names):
    async with open_api(REPORT) as api:
        answer = await api.http.get(f"{URL}&names={names}")
    assert answer.status_code == 422
    assert "names" in answer.text


async def test_client_gets_names_also_through_a_job(open_api):
    async with open_api(REPORT) as api:
        names = await _refresh(api)
        api.start_worker()
        followed = []
        async with AsyncClient("http://api", transport=httpx.ASGITransport(api.app)) as client:
            answer = await client.query("queue_hour", DAY, names="current", on_progress=followed.append)
            plain = await client.query("queue_hour", DAY)
        rows = answer.table
        assert dict(zip(rows["queue_id"].to_pylist(), rows["queue_name"].to_pylist(), strict=True)) == names
        assert "queue_name" not in plain.table.schema.names

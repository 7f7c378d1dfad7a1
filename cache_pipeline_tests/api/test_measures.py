"""Measures in answers: every format, rolled up, through the clients, in the view, and in a list of reports."""

import csv
import io

import httpx
import psycopg
import pyarrow as pa
import pytest

from cache_pipeline.client import AsyncClient
from cache_pipeline.vendors.declaration_rules import use_vendor_measures
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.query.declared import declared

REPORT = use_vendor_measures(
    declared(
        platform="genesys",
        query_type="conversations",
        time_zone="UTC",
        group_by=["queueId", "mediaType"],
        metrics=["nOffered", "tAbandon", "tAnswered", "tHandle"],
        measures={"per_offered": {"formula": "t_handle_sum / n_offered", "kind": "duration"}},
        volume_metric="nOffered",
        delivery="sync",
        start="2025-01-01",
    )
)
URL = f"/v1/reports/queue_hour?interval={DAY}"
ASKED = "measures=average_speed_of_answer,abandon_rate,per_offered"
WAIT = {"Prefer": "wait=20"}


async def _truth(api, fact, value):
    query = {"interval": DAY, "granularity": "P1D", "groupBy": "queueId", "fact": fact}
    rows = (await api.vendor.get("/simulator/truth", params=query)).json()["rows"]
    return {row["queueId"]: row[value] for row in rows}


async def test_measures_are_those_of_the_vendor_and_of_sums(open_api):
    async with open_api(REPORT) as api:
        api.start_worker()
        url = f"{URL}&group_by=queueId&granularity=P1D"
        document = (await api.http.get(f"{url}&{ASKED}", headers=WAIT)).json()
        rows = {row[2]: dict(zip(document["columns"], row, strict=True)) for row in document["rows"]}
        offered, handled = await _truth(api, "offered", "offered"), await _truth(api, "handle", "handleMs")
        abandoned = await _truth(api, "abandoned", "abandoned")
        assert document["columns"][-3:] == ["average_speed_of_answer", "abandon_rate", "per_offered"]
        assert {queue: row["abandon_rate"] for queue, row in rows.items()} == {
            queue: abandoned.get(queue, 0) / offered[queue] for queue in rows
        }
        assert {queue: row["per_offered"] for queue, row in rows.items()} == {
            queue: handled[queue] / offered[queue] for queue in rows
        }
        assert all(
            row["average_speed_of_answer"] == row["t_answered_sum"] / row["t_answered_count"] for row in rows.values()
        )
        for accept in ("text/csv", "application/vnd.apache.arrow.stream"):
            answer = await api.http.get(f"{url}&{ASKED}", headers={"Accept": accept})
            if accept == "text/csv":
                read = {row["queue_id"]: float(row["per_offered"]) for row in csv.DictReader(io.StringIO(answer.text))}
            else:
                table = pa.ipc.open_stream(answer.content).read_all()
                read = dict(zip(table["queue_id"].to_pylist(), table["per_offered"].to_pylist(), strict=True))
            assert read == {queue: row["per_offered"] for queue, row in rows.items()}
        plain = await api.http.get(url)
        assert "abandon_rate" not in plain.json()["columns"]


async def test_view_has_the_measures_of_each_row(open_api):
    async with open_api(REPORT) as api:
        api.start_worker()
        document = (await api.http.get(f"{URL}&{ASKED}", headers=WAIT)).json()
        names = ["interval_start", "media_type", "queue_id", "average_speed_of_answer", "abandon_rate", "per_offered"]
        places = [document["columns"].index(name) for name in names]
        answered = [tuple(row[place] for place in places[1:]) for row in document["rows"]]
        with psycopg.connect(api.settings.required_postgres_url()) as connection:
            shown = connection.execute(
                "SELECT media_type, queue_id, average_speed_of_answer, abandon_rate, per_offered FROM reporting.queue_hour"
            ).fetchall()
            [[comment]] = connection.execute(
                "SELECT col_description('reporting.queue_hour'::regclass, ordinal_position) FROM information_schema.columns"
                " WHERE table_schema = 'reporting' AND column_name = 'abandon_rate'"
            ).fetchall()
        assert sorted(shown, key=str) == sorted(answered, key=str)
        assert "t_abandon_count / n_offered" in comment


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("measures=unknown", "unknown measure 'unknown'; expected some of offered"),
        ("measures=abandon_rate&metrics=nOffered", "abandon_rate needs t_abandon_count"),
    ],
)
async def test_measure_that_cannot_be_answered_is_refused(open_api, query, problem):
    async with open_api(REPORT) as api:
        answer = await api.http.get(f"{URL}&{query}")
        assert answer.status_code == 422
        assert problem in answer.text


async def test_client_and_list_of_reports_know_the_measures(open_api):
    async with open_api(REPORT) as api:
        api.start_worker()
        [listed] = (await api.http.get("/v1/reports")).json()["reports"]
        formulas = {each["name"]: each["formula"] for each in listed["measures"]}
        assert formulas["average_speed_of_answer"] == "t_answered_sum / t_answered_count"
        async with AsyncClient("http://api", transport=httpx.ASGITransport(api.app)) as client:
            answer = await client.query("queue_hour", DAY, measures=["abandon_rate"])
        assert answer.table["abandon_rate"].type == pa.float64()

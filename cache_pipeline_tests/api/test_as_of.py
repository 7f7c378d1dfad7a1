"""Answers as they were known at an instant: over HTTP, through the client, and what is refused."""

from datetime import UTC, datetime

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cache_pipeline.client import AsyncClient
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.query.declared import declared

REPORT = declared(
    time_zone="UTC", group_by=["queueId"], expected_groups=8, start="2025-01-01", delivery="sync", time_travel="P90D"
)
URL = f"/v1/reports/queue_hour?interval={DAY}"


async def fetch(api) -> tuple[dict, datetime]:
    """Fetch the day from the vendor; return the answer, and an instant at which it was known."""
    api.start_worker()
    answer = (await api.http.get(URL, headers={"Prefer": "wait=20"})).json()
    assert answer["rows"]
    return answer, datetime.now(UTC)


def restate(api) -> None:
    """Store the day as if the vendor had corrected it: one row less, and one more of each other."""
    service = api.query_service.report_service
    series, interval = service.series(REPORT), Interval.parse(DAY)
    rows = service.history.read(series, interval, service.columns(REPORT)).slice(1)
    place = rows.schema.get_field_index("offered")
    rows = rows.set_column(place, rows.schema.field("offered"), pc.add(rows["offered"], 1))  # pyright: ignore
    known = IntervalSet([interval])
    service.history.replace(
        Replacement(
            series=series,
            final=known,
            provisional=IntervalSet(),
            rows=Rows.from_table(rows),
            watermark=interval.end,
            fetch_times=(FetchTime(known, datetime.now(UTC)),),
        )
    )


def text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


async def test_answers_are_as_they_were_known(open_api):
    async with open_api(REPORT) as api:
        before, known_at = await fetch(api)
        restate(api)
        answer = await api.http.get(f"{URL}&as_of={text(known_at)}")
        assert (answer.json()["rows"], answer.json()["asOf"]) == (before["rows"], text(known_at))
        assert answer.headers["Cache-Control"].endswith("max-age=3600, immutable")
        again = await api.http.get(f"{URL}&as_of={text(known_at)}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
        named = await api.http.get(f"{URL}&as_of={text(known_at)}&names=current")
        assert "immutable" not in named.headers["Cache-Control"]
        now = (await api.http.get(f"{URL}&as_of={text(datetime.now(UTC))}")).json()
        assert len(now["rows"]) == len(before["rows"]) - 1


async def test_rolled_up_answers_and_the_client_know_it_too(open_api):
    async with open_api(REPORT) as api:
        before, known_at = await fetch(api)
        restate(api)
        offered = sum(row[before["columns"].index("offered")] for row in before["rows"])
        body = {"interval": DAY, "granularity": "P1D", "groupBy": [], "metrics": ["offered"], "asOf": text(known_at)}
        [row] = (await api.http.post("/v1/reports/queue_hour", json=body)).json()["rows"]
        assert row[-1] == offered
        async with AsyncClient("http://api", transport=httpx.ASGITransport(api.app)) as client:
            then = await client.query("queue_hour", DAY, metrics=["offered"], as_of=known_at)
            assert pa.compute.sum(then.table["offered"]).as_py() == offered


@pytest.mark.parametrize(
    ("as_of", "problem"),
    [
        ("2026-01-06T00:00:00Z", "keeps superseded figures since"),
        ("2999-01-06T00:00:00Z", "is in the future"),
        ("2026-01-06T00:00:00", "has no offset"),
        ("yesterday", "is not an ISO 8601 date or time"),
    ],
)
async def test_instants_that_cannot_be_answered_are_refused(open_api, as_of, problem):
    async with open_api(REPORT) as api:
        await fetch(api)
        answer = await api.http.get(f"{URL}&as_of={as_of}")
        assert answer.status_code == 422
        assert problem in answer.text
        [error] = answer.json()["errors"]
        assert error["field"].endswith("as_of")


async def test_intervals_that_were_not_final_are_refused(open_api):
    async with open_api(REPORT) as api:
        _, known_at = await fetch(api)
        longer = "2026-01-05T00:00:00Z/2026-01-07T00:00:00Z"
        answer = await api.http.get(f"/v1/reports/queue_hour?interval={longer}&as_of={text(known_at)}")
        assert answer.status_code == 422
        assert "was not final yet" in answer.text
        assert f"ask for {DAY}" in answer.text


async def test_reports_that_keep_nothing_say_how_to(open_api):
    async with open_api(REPORT.model_copy(update={"time_travel": None})) as api:
        answer = await api.http.get(f"{URL}&as_of={text(datetime.now(UTC))}")
        assert "declare time_travel, such as P90D" in answer.text

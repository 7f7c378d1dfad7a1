"""The guide's own paths: a client of the vendor gets the same rows from us."""

import asyncio
from typing import Any

import httpx
import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import REPORT
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_vendor_paths import count_requests

PATH = "/api/v2/analytics/reportdata/query"
BODY: dict[str, Any] = {
    "reportId": "queue-performance",
    "timeGrouping": "byHour",
    "interval": "2026-01-05T00:00:00Z/2026-01-06T00:00:00Z",
    "groupBy": ["queueId"],
    "columns": ["offered"],
}
KEYS = ApiSettings(auth="keys")


async def _fetch(http: httpx.AsyncClient, body: dict[str, Any], headers: dict[str, str], **sizes: int) -> list[Any]:
    submitted = (await http.post(f"{PATH}/async", json=body, headers=headers)).raise_for_status().json()
    assert set(submitted) == {"id", "status", "percentComplete", "createdTime"}
    status = submitted
    while status["status"] in ("queued", "processing"):
        await asyncio.sleep(0.02)
        status = (await http.get(f"{PATH}/{submitted['id']}", headers=headers)).json()
    assert status["status"] == "completed"
    assert status["percentComplete"] == 100
    rows: list[Any] = []
    parameters: dict[str, Any] = dict(sizes)
    while True:
        page = (await http.get(status["resultUrl"], params=parameters, headers=headers)).raise_for_status().json()
        assert page["dataAvailabilityDate"].startswith("2026-01-0")
        rows += page["rows"]
        if "cursor" not in page:
            return sorted(rows, key=lambda row: sorted((name, str(value)) for name, value in row.items()))
        parameters["cursor"] = page["cursor"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"groupBy": [], "timeGrouping": "byDay"},
        {"filters": {"type": "and", "predicates": [{"dimension": "queueId", "operator": "in", "values": ["q-1"]}]}},
        {"groupBy": ["queueId", "mediaType"], "columns": ["offered", "answered"]},
    ],
)
async def test_rows_are_the_vendors(open_api, changes):
    async with open_api(REPORT, api=KEYS) as api:
        api.start_worker()
        form = {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "demo-secret"}
        token = (await api.vendor.post("/oauth/token", data=form)).json()["access_token"]
        of_vendor = await _fetch(api.vendor, BODY | changes, {"Authorization": f"Bearer {token}"})
        ours = await create_key(api)
        assert await _fetch(api.http, BODY | changes, ours) == of_vendor
        requests = await count_requests(api)
        assert await _fetch(api.http, BODY | changes, ours, pageSize=7) == of_vendor
        assert await count_requests(api) == requests


@pytest.mark.parametrize("path", ["nonsense", "6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11", "x/results", "../../routing"])
async def test_unknown_query_is_not_found(open_api, path):
    async with open_api(REPORT, api=KEYS) as api:
        answer = await api.http.get(f"{PATH}/{path}", headers=await create_key(api))
    assert (answer.status_code, answer.json()["status"]) == (404, 404)
    assert answer.json()["contextId"] == answer.headers["ININ-Correlation-Id"]

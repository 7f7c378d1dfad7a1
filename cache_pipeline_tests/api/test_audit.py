"""The audit log: who asked what, without figures, keys and values of filters; and the count of refused keys."""

import json
import logging

import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.monitoring.test_prometheus import labels, scrape
from cache_pipeline_tests.api.test_auth import create_key

URL = f"/v1/reports/queue_hour?interval={DAY}"
AUDITED = ApiSettings(auth="keys", audit_log=True)
FILTER = {"predicates": [{"dimension": "queueId", "values": ["+49301234567"]}]}


def entries(caplog):
    return [record.__dict__ for record in caplog.records if record.name == "cache_pipeline.audit"]


async def test_each_request_says_who_asked_what(open_api, caplog):
    async with open_api(api=AUDITED) as api:
        api.start_worker()
        key = await create_key(api, tenant="default")
        key_id = key["Authorization"].split("_")[1]
        body = {"interval": DAY, "filters": FILTER, "groupBy": []}
        await api.http.get(URL, headers={**key, "Prefer": "wait=20"})
        await api.http.get(URL, headers=key)
        await api.http.post("/v1/reports/queue_hour", json=body, headers=key)
        await api.http.get("/v1/reports", headers=key)
        await api.http.get("/healthz")
        first, again, narrowed, listed = entries(caplog)
        for entry in (first, again, narrowed, listed):
            assert (entry["key"], entry["tenant"], entry["client"]) == (key_id, "default", "127.0.0.1")
        for entry in (first, again):
            assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/v1/reports/queue_hour", 200)
            assert (entry["report"], entry["interval"], entry["group_by"]) == ("queue_hour", DAY, "queueId")
        assert (narrowed["group_by"], narrowed["filtered_by"], narrowed["metrics"]) == ("", "queueId", "offered")
        assert (listed["path"], "report" in listed) == ("/v1/reports", False)
        secret = key["Authorization"].split("_", 2)[2]
        for text in (secret, "301234567"):
            assert not any(text in json.dumps(entry, default=str) for entry in entries(caplog))
            assert text not in caplog.text


async def test_long_path_is_cut(open_api, caplog):
    async with open_api(api=AUDITED) as api:
        await api.http.get("/" + "a" * 4000)
        (entry,) = entries(caplog)
        assert len(entry["path"]) < 1000


async def test_refused_request_is_logged_and_counted(open_api, caplog):
    async with open_api(api=AUDITED) as api:
        key = (await create_key(api))["Authorization"]
        key_id, secret = key.split("_")[1], key.split("_", 2)[2]
        unknown = f"Bearer cp_000000000000_{secret}"
        for headers in ({}, {"Authorization": unknown}, {"Authorization": "Bearer nonsense"}, {"X-API-Key": "cp_x"}):
            assert (await api.http.get(URL, headers=headers)).status_code == 401
        assert (await api.http.get("/v1/status")).status_code == 401
        assert (await api.http.post("/v1/session", json={"key": "cp_nothing"})).status_code == 401
        found = entries(caplog)
        assert [entry["status"] for entry in found] == [401] * 6
        assert [entry.get("refused_key") for entry in found] == [None, "000000000000", None, None, None, None]
        assert all(entry["key"] is None for entry in found)
        assert secret not in caplog.text
        assert key_id not in caplog.text
        refused = (await scrape(api))["refused_keys_total"]
        assert refused == {labels(reason="missing"): 2, labels(reason="invalid"): 4}


async def test_path_cannot_forge_a_line(open_api, caplog):
    async with open_api(api=AUDITED) as api:
        await api.http.get("/v1/reports/a%0Akey=forged%20status=200")
        (entry,) = entries(caplog)
        assert "\n" not in entry["path"]
        assert "\n" not in logging.Formatter().format(caplog.records[-1]).rstrip()


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
async def test_nothing_is_logged_unless_asked_for(open_api, caplog, level):
    logging.getLogger("cache_pipeline.audit").setLevel(level)
    async with open_api(api=ApiSettings(auth="keys")) as api:
        await api.http.get(URL)
        assert entries(caplog) == []

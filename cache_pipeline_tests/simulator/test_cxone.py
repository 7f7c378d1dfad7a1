"""Tests of the simulated CXone Data Extraction."""

import base64
import csv
import io
import json
import re

import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import CLIENT, SECRET, Json, Vendor, open_vendor

JOBS = "/data-extraction/v1/jobs"
BODY: Json = {
    "entityName": "recording-interaction-metadata",
    "version": "7",
    "startDate": "2024-06-10",
    "endDate": "2024-06-10",
}
SMALL = SimulatorSettings(conversations_per_working_day=300, organisation_zone="UTC")


def _wait(vendor: Vendor) -> None:
    vendor.clock.seconds += 31


def test_job_result_is_a_csv_behind_a_short_lived_url() -> None:
    with open_vendor(SMALL) as vendor:
        answer = vendor.post(JOBS, BODY)
        assert answer.status_code == 202
        job = answer.json()
        assert isinstance(job, str)
        _wait(vendor)
        status = vendor.get(f"{JOBS}/{job}").json()["jobStatus"]
        assert (status["id"], status["status"]) == (job, "SUCCEEDED")
        url = status["result"]["url"]
        assert url.startswith("http://localhost:")
        assert vendor.http.get(url, headers=vendor.headers).status_code == 400, "the signed URL must not get a token"
        assert vendor.http.get(re.sub("signature=.", "signature=-", url)).status_code == 403
        file = vendor.http.get(url)
        assert file.content.startswith(b"\xef\xbb\xbf")
        _wait(vendor)
        assert vendor.http.get(url).status_code == 403
        assert vendor.get(JOBS).json() == {"jobs": [{"id": job, "status": "SUCCEEDED"}]}
    lines = list(csv.DictReader(io.StringIO(file.content.decode("utf-8-sig"))))
    assert {"Segment ID", "Start Date", "ANI", "DNIS", "Disposition"} <= set(lines[0])
    assert all(line["Start Date"].startswith("2024-06-10T") for line in lines)
    assert len(lines) > 200


def test_tenant_can_call_once_in_thirty_seconds() -> None:
    with open_vendor(SMALL) as vendor:
        assert vendor.post(JOBS, BODY).status_code == 202
        vendor.clock.seconds += 29
        assert vendor.post(JOBS, BODY).status_code == vendor.get(JOBS).status_code == 403
        vendor.clock.seconds += 1.01
        assert vendor.post(JOBS, BODY).status_code == 202


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entityName": "shoes"}, "recording-interaction-metadata"),
        ({"version": "99"}, "version"),
        ({"endDate": "2024-06-25"}, "14 days"),
        ({"endDate": "2024-06-09"}, "endDate"),
        ({"startDate": "10 June"}, "startDate"),
    ],
)
def test_invalid_body_is_a_400(changes: Json, message: str) -> None:
    with open_vendor(SMALL) as vendor:
        answer = vendor.post(JOBS, BODY | changes)
        assert answer.status_code == 400
        assert message in answer.json()["message"]


def test_both_logins_return_a_valid_token() -> None:
    with open_vendor(SMALL) as vendor:
        key = {"accessKeyId": CLIENT, "accessKeySecret": SECRET}
        by_key = vendor.http.post("/authentication/v1/token/access-key", json=key)
        endpoint = vendor.http.get("/.well-known/openid-configuration").json()["token_endpoint"]
        form = {"grant_type": "password", "username": CLIENT, "password": SECRET}
        by_password = vendor.http.post(endpoint, data=form)
        for answer in (by_key, by_password):
            token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            assert vendor.http.get(JOBS, headers=token).status_code == 200
            _wait(vendor)
        wrong = vendor.http.post("/authentication/v1/token/access-key", json=key | {"accessKeySecret": "no"})
        assert wrong.status_code == 401
        assert SECRET not in wrong.text
        unknown = vendor.http.get("/.well-known/cxone-configuration", params={"tenantId": "unknown"})
        assert unknown.status_code == 404


def test_discovery_returns_the_tenants_api_address() -> None:
    with open_vendor(SMALL) as vendor:
        key = {"accessKeyId": CLIENT, "accessKeySecret": SECRET}
        token = vendor.http.post("/authentication/v1/token/access-key", json=key).json()["access_token"]
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        configuration = vendor.http.get("/.well-known/cxone-configuration", params=claims).json()
        port = vendor.http.base_url.port
    assert configuration == {"area": "na1", "domain": f"localhost:{port}"}
    with open_vendor(SMALL.model_copy(update={"cxone_domain": "vendor.example"})) as vendor:
        configuration = vendor.http.get("/.well-known/cxone-configuration", params=claims).json()
    assert configuration == {"area": "na1", "domain": "vendor.example"}

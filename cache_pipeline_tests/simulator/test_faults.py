"""Tests of configurable faults."""

import pytest

from cache_pipeline.simulator.faults import Faults
from cache_pipeline_tests.simulator.vendor import AGGREGATES, AVAILABILITY, REPORTDATA, Json, Vendor, aggregate_body

FAULTS = "/simulator/faults"
NONE: Json = Faults().model_dump()


def _set(vendor: Vendor, **faults: int) -> None:
    assert vendor.http.post(FAULTS, json=faults).status_code == 200


def test_faults_are_read_replaced_and_cleared_without_token(shared_vendor: Vendor) -> None:
    assert shared_vendor.http.get(FAULTS).json() == NONE
    assert shared_vendor.http.post(FAULTS, json={"fail_jobs": 2}).json() == NONE | {"fail_jobs": 2}
    assert shared_vendor.http.post(FAULTS, json={"max_rows": 5}).json() == NONE | {"max_rows": 5}
    assert shared_vendor.http.delete(FAULTS).status_code == 204
    assert shared_vendor.http.get(FAULTS).json() == NONE


@pytest.mark.parametrize("wrong", [{"surprise": 1}, {"fail_jobs": -1}, {"fail_jobs": "2"}, {"max_rows": 1.5}, []])
def test_invalid_fault_is_400_and_changes_nothing(shared_vendor: Vendor, wrong: object) -> None:
    assert shared_vendor.http.post(FAULTS, json=wrong).status_code == 400
    assert shared_vendor.http.get(FAULTS).json() == NONE


def test_max_rows_truncates_every_query(shared_vendor: Vendor) -> None:
    hour = "2024-06-10T08:00:00Z/2024-06-10T09:00:00Z"
    rows = shared_vendor.rows(interval=hour)
    _set(shared_vendor, max_rows=3)
    assert shared_vendor.rows(interval=hour) == rows[:3]
    assert len(shared_vendor.aggregate(interval=hour)) == 3
    job = shared_vendor.post(f"{AGGREGATES}/jobs", aggregate_body(interval=hour)).json()["jobId"]
    shared_vendor.clock.seconds += 60
    assert len(shared_vendor.get(f"{AGGREGATES}/jobs/{job}/results").json()["results"]) == 3
    shared_vendor.http.delete(FAULTS)
    assert shared_vendor.rows(interval=hour) == rows


def test_fail_jobs_applies_to_that_many_jobs(shared_vendor: Vendor) -> None:
    _set(shared_vendor, fail_jobs=2)
    first = f"{REPORTDATA}/{shared_vendor.submit()}"
    second = f"{AGGREGATES}/jobs/{shared_vendor.post(f'{AGGREGATES}/jobs', aggregate_body()).json()['jobId']}"
    third = f"{REPORTDATA}/{shared_vendor.submit()}"
    assert shared_vendor.get(first).json()["status"] == "queued"
    shared_vendor.clock.seconds += 60
    failed = shared_vendor.get(first).json()
    assert failed["status"] == "failed"
    assert failed["errorMessage"]
    assert "resultUrl" not in failed
    assert shared_vendor.get(f"{first}/results").status_code == 400
    failed = shared_vendor.get(second).json()
    assert (failed["state"], bool(failed["errorMessage"])) == ("FAILED", True)
    assert shared_vendor.get(third).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("server_errors", 503, "service.unavailable"),
        ("reject_with_429", 429, "too.many.requests"),
        ("unauthorized", 401, "bad.credentials"),
    ],
)
def test_fault_occurs_as_often_as_set_on_any_platform(shared_vendor, fault: str, status: int, code: str) -> None:
    _set(shared_vendor, **{fault: 2})
    for answer in (shared_vendor.get(AVAILABILITY), shared_vendor.get(f"{REPORTDATA}/unknown")):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "Retry-After" not in answer.headers
    assert shared_vendor.get(AVAILABILITY).status_code == 200
    assert shared_vendor.http.get(FAULTS).json() == NONE


def test_configured_rejections_do_not_count_but_server_errors_do(vendor: Vendor) -> None:
    _set(vendor, reject_with_429=1, unauthorized=1, server_errors=1)
    unauthorized, rejected, broken, normal = (vendor.get(f"{REPORTDATA}/unknown") for _ in range(4))
    results = [
        (answer.status_code, answer.headers["X-RateLimit-Remaining"])
        for answer in (unauthorized, rejected, broken, normal)
    ]
    assert results == [(401, "60"), (429, "0"), (503, "59"), (404, "58")]

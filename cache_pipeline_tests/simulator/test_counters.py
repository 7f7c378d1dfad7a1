"""Tests of the simulator's counters."""

import asyncio

import httpx

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import (
    AGGREGATES,
    AVAILABILITY,
    CLIENT,
    REPORTDATA,
    Vendor,
    aggregate_body,
    open_vendor,
)

COUNTERS = "/simulator/counters"


def test_calls_are_counted_by_route_client_and_status(vendor: Vendor) -> None:
    vendor.http.delete(COUNTERS)
    vendor.login()
    vendor.rows()
    vendor.aggregate()
    vendor.post(f"{AGGREGATES}/query", {})
    vendor.get(AVAILABILITY)
    vendor.http.get(AVAILABILITY)
    vendor.http.get("/simulator/health")
    counters = vendor.http.get(COUNTERS).json()
    calls = {(entry["call"], entry["client_id"], entry["status"]): entry["count"] for entry in counters["calls"]}
    assert calls == {
        ("POST /oauth/token", CLIENT, 200): 1,
        (f"POST {REPORTDATA}/async", CLIENT, 200): 1,
        (f"GET {REPORTDATA}/{{id}}", CLIENT, 200): 1,
        (f"GET {REPORTDATA}/{{id}}/results", CLIENT, 200): 1,
        (f"POST {AGGREGATES}/query", CLIENT, 200): 1,
        (f"POST {AGGREGATES}/query", CLIENT, 400): 1,
        (f"GET {AVAILABILITY}", CLIENT, 200): 1,
        (f"GET {AVAILABILITY}", None, 401): 1,
    }
    assert counters["summary"] == {
        "requests": 7,
        "rejected_429": 0,
        "over_limit": 0,
        "logins": 1,
        "submits": 1,
        "polls": 1,
        "results": 1,
        "sync_queries": 1,
    }
    assert counters["logins"] == {CLIENT: 1}


def test_rejections_are_counted_by_client_until_reset() -> None:
    with open_vendor(SimulatorSettings(genesys_rate_limit=1)) as vendor:
        for _ in range(3):
            vendor.get(AVAILABILITY)
        counters = vendor.http.get(COUNTERS).json()
        assert counters["rejected_429"] == {CLIENT: 2}
        assert (counters["summary"]["rejected_429"], counters["summary"]["over_limit"]) == (2, 2)
        assert vendor.http.delete(COUNTERS).status_code == 204
        empty = vendor.http.get(COUNTERS).json()
    assert (empty["calls"], empty["rejected_429"], empty["logins"], empty["peak_window_share"]) == ([], {}, {}, {})
    assert set(empty["summary"].values()) == {0}


def test_peak_window_share_is_relative_to_the_limit() -> None:
    with open_vendor(SimulatorSettings(genesys_rate_limit=4)) as vendor:
        shares = []
        for _ in range(5):
            vendor.get(AVAILABILITY)
            shares.append(vendor.http.get(COUNTERS).json()["peak_window_share"])
    assert shares == [{CLIENT: 0.25}, {CLIENT: 0.5}, {CLIENT: 0.75}, {CLIENT: 1.0}, {CLIENT: 1.0}]


def test_configured_429_is_not_over_the_limit() -> None:
    with open_vendor(SimulatorSettings()) as vendor:
        vendor.http.post("/simulator/faults", json={"throttle": 1, "reject_with_429": 1})
        for _ in range(3):
            vendor.get(AVAILABILITY)
        summary = vendor.http.get(COUNTERS).json()["summary"]
    assert (summary["rejected_429"], summary["over_limit"]) == (2, 0)


async def test_concurrent_requests_are_accepted_up_to_the_limit() -> None:
    with open_vendor(SimulatorSettings()) as vendor:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(base_url=vendor.http.base_url, headers=vendor.headers, limits=limits) as http:
            answers = await asyncio.gather(*(http.get(f"{REPORTDATA}/unknown") for _ in range(150)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(404), statuses.count(429)) == (60, 90)
        accepted = (answer for answer in answers if answer.status_code == 404)
        remaining = sorted(int(answer.headers["X-RateLimit-Remaining"]) for answer in accepted)
        assert remaining == list(range(60))
        assert vendor.http.get(COUNTERS).json()["summary"]["rejected_429"] == 90


async def test_server_stays_responsive_during_a_large_query() -> None:
    with open_vendor(SimulatorSettings(cached_days=5)) as vendor:
        async with httpx.AsyncClient(base_url=vendor.http.base_url, headers=vendor.headers, timeout=60) as http:
            months = aggregate_body(interval="2023-01-01T00:00:00Z/2023-05-01T00:00:00Z", granularity="P1D")
            slow = asyncio.create_task(http.post(f"{AGGREGATES}/query", json=months))
            quick = 0
            while not slow.done():
                assert (await http.get("/simulator/health")).status_code == 200
                quick += 1
            assert (await slow).status_code == 200
            assert quick > 5

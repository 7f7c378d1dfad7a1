"""Tests of the rate limits, as a unit and over HTTP."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.simulator.rate_limit import SlidingWindow
from cache_pipeline_tests.simulator.vendor import AVAILABILITY, CLIENT, REPORTDATA, SettableClock, Vendor, open_vendor

steps = st.lists(st.floats(0, 30, allow_nan=False) | st.just(0.0) | st.just(60.0), max_size=120)


def _times(gaps: list[float]) -> list[float]:
    times, now = [], 1_700_000_000.0
    for gap in gaps:
        now += gap
        times.append(now)
    return times


@given(gaps=steps, limit=st.integers(1, 8))
def test_sliding_window_accepts_exactly_the_limit(gaps: list[float], limit: int) -> None:
    window = SlidingWindow(limit, 60)
    accepted: list[float] = []
    for now in _times(gaps):
        recent = [instant for instant in accepted if now - instant < 60]
        decision = window.acquire("token", now)
        assert decision.is_accepted == (len(recent) < limit)
        if decision.is_accepted:
            accepted.append(now)
            assert decision.remaining == limit - len(recent) - 1
        else:
            assert decision.remaining == 0
    for end in accepted:
        assert sum(end - 60 < instant <= end for instant in accepted) <= limit


@given(gaps=steps, limit=st.integers(1, 8))
def test_retry_after_is_exact_to_the_second(gaps: list[float], limit: int) -> None:
    times = _times(gaps)
    for position in range(len(times)):
        window = SlidingWindow(limit, 60)
        decisions = [window.acquire("token", now) for now in times[: position + 1]]
        now, last = times[position], decisions[-1]
        if last.is_accepted:
            assert last.retry_after == 0
            continue
        assert last.retry_after >= 1
        if last.retry_after > 1:
            assert window.remaining("token", now + last.retry_after - 1) == 0
        assert window.acquire("token", now + last.retry_after).is_accepted
        return


def test_sixty_first_reportdata_request_in_a_minute_is_429(vendor: Vendor) -> None:
    path = f"{REPORTDATA}/unknown"
    for number in range(60):
        answer = vendor.get(path)
        assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (404, str(59 - number))
        vendor.clock.seconds += 0.5
    rejected = vendor.get(path)
    assert (rejected.status_code, rejected.headers["X-RateLimit-Remaining"]) == (429, "0")
    assert rejected.headers["Retry-After"] == "30"
    vendor.clock.seconds += 29.5
    assert vendor.get(path).status_code == 429, "a rejected request must not count, nor must it free a slot early"
    vendor.clock.seconds += 0.5
    assert vendor.get(path).status_code == 404
    assert vendor.get(path).status_code == 429, "only the oldest has left the window"


def test_platforms_have_separate_limits(vendor: Vendor) -> None:
    for _ in range(61):
        last = vendor.get(f"{REPORTDATA}/unknown")
    assert last.status_code == 429
    assert vendor.get(AVAILABILITY).status_code == 200


def test_genesys_429_is_as_documented_without_quota_headers() -> None:
    with open_vendor(SimulatorSettings(genesys_rate_limit=2)) as vendor:
        vendor.get(AVAILABILITY)
        vendor.clock.seconds += 18.2
        vendor.get(AVAILABILITY)
        answer = vendor.get(AVAILABILITY)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "42"
    assert answer.headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
    assert answer.headers["Strict-Transport-Security"] == "max-age=600; includeSubDomains"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {
        "message": "Rate limit exceeded the maximum. Retry the request in [42] seconds",
        "code": "too.many.requests.retry.after",
        "status": 429,
        "contextId": answer.headers["ININ-Correlation-Id"],
        "details": [],
        "errors": [],
        "limit": {"key": "client.credentials.token.rate.per.minute", "namespace": "platform.api", "value": 2},
    }
    assert not [name for name in answer.headers if "ratelimit" in name.lower()]


def test_logins_and_unknown_tokens_do_not_count() -> None:
    with open_vendor(SimulatorSettings(genesys_rate_limit=1)) as vendor:
        vendor.http.get(AVAILABILITY, headers={"Authorization": "Bearer made-up"})
        vendor.login()
        assert vendor.get(AVAILABILITY).status_code == 200


@pytest.mark.parametrize(("scope", "status"), [("token", 200), ("client", 429)])
def test_second_token_has_its_own_limit_by_scope(scope, status: int) -> None:
    with open_vendor(SimulatorSettings(genesys_rate_limit=1, rate_limit_scope=scope)) as vendor:
        assert vendor.get(AVAILABILITY).status_code == 200
        vendor.login()
        assert vendor.get(AVAILABILITY).status_code == status


def test_clients_do_not_share_a_limit() -> None:
    settings = SimulatorSettings(clients={CLIENT: SecretStr("demo-secret"), "b": SecretStr("b")}, genesys_rate_limit=1)
    with running_simulator(settings, clock=SettableClock()) as url, httpx.Client(base_url=url) as http:
        for name, secret in ((CLIENT, "demo-secret"), ("b", "b")):
            login = http.post("/oauth/token", data={"grant_type": "client_credentials"}, auth=(name, secret))
            headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
            assert http.get(AVAILABILITY, headers=headers).status_code == 200
            assert http.get(AVAILABILITY, headers=headers).status_code == 429

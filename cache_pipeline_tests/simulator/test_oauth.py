"""Tests of the simulated OAuth login."""

from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.simulator.oauth import TokenIssuer
from cache_pipeline_tests.simulator.vendor import AVAILABILITY, SettableClock

GRANT = {"grant_type": "client_credentials"}
SETTINGS = SimulatorSettings(
    clients={"one": SecretStr("first"), "two": SecretStr("second")}, token_lifetime_seconds=300
)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def http(clock: SettableClock) -> Iterator[httpx.Client]:
    with running_simulator(SETTINGS, clock=clock) as url, httpx.Client(base_url=url) as http:
        yield http


@pytest.mark.parametrize("path", ["/oauth/token", "/login/oauth/token"])
def test_credentials_by_basic_or_in_the_body_return_a_token(http: httpx.Client, path: str) -> None:
    by_basic = http.post(path, data=GRANT, auth=("one", "first"))
    in_body = http.post(path, data=GRANT | {"client_id": "two", "client_secret": "second"})
    for answer in (by_basic, in_body):
        assert answer.status_code == 200
        body = answer.json()
        assert set(body) == {"access_token", "token_type", "expires_in"}
        assert (body["token_type"], body["expires_in"]) == ("bearer", 300)
        token = {"Authorization": f"Bearer {body['access_token']}"}
        assert http.get(AVAILABILITY, headers=token).status_code == 200
    assert by_basic.json()["access_token"] != in_body.json()["access_token"]


@pytest.mark.parametrize(
    ("form", "auth", "status", "error"),
    [
        (GRANT, ("one", "second"), 401, "invalid_client"),
        (GRANT, ("unknown", "first"), 401, "invalid_client"),
        (GRANT, ("one", "gr\u00fc\u00dfe"), 401, "invalid_client"),
        (GRANT, None, 401, "invalid_client"),
        ({}, ("one", "first"), 400, "invalid_request"),
        ({"grant_type": "password"}, ("one", "first"), 400, "unsupported_grant_type"),
    ],
)
def test_refused_login_has_error_and_description(http, form, auth, status, error) -> None:
    answer = http.post("/oauth/token", data=form, auth=auth)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "description"}
    assert answer.json()["error"] == error


def test_malformed_basic_header_is_refused(http: httpx.Client) -> None:
    for header in ("Basic %%%", "Basic b25l", "Bearer x"):
        answer = http.post("/oauth/token", data=GRANT, headers={"Authorization": header})
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_token_is_valid_for_exactly_its_lifetime(http: httpx.Client, clock: SettableClock) -> None:
    token = http.post("/oauth/token", data=GRANT, auth=("one", "first")).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    clock.seconds += 299.99
    assert http.get(AVAILABILITY, headers=headers).status_code == 200
    clock.seconds += 0.01
    answer = http.get(AVAILABILITY, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "credentials.expired")
    renewed = http.post("/oauth/token", data=GRANT, auth=("one", "first")).json()["access_token"]
    assert http.get(AVAILABILITY, headers={"Authorization": f"Bearer {renewed}"}).status_code == 200
    assert http.get(AVAILABILITY, headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "authentication.required"),
        ({"Authorization": "Basic b25lOmZpcnN0"}, "authentication.required"),
        ({"Authorization": "Bearer made-up"}, "bad.credentials"),
    ],
)
def test_unknown_token_is_401_with_an_error_body(http: httpx.Client, headers, code: str) -> None:
    answer = http.get(AVAILABILITY, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.json()["contextId"] == answer.headers["ININ-Correlation-Id"]


def test_repr_shows_no_secret() -> None:
    issuer = TokenIssuer(SETTINGS)
    token = issuer.login("one", "first", 0.0)
    assert "first" not in repr(SETTINGS)
    assert token.text not in repr(token)

"""Tests of the listings of names: pages, deleted entries, permissions, and changes while it runs."""

from typing import Any

import pytest
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.simulator.genesys_lookups import LISTINGS
from cache_pipeline_tests.simulator.vendor import CLIENT, SECRET, Vendor, open_vendor


def _names(vendor: Vendor, kind: str, **params: Any) -> dict[str, str]:
    names: dict[str, str] = {}
    path: str | None = LISTINGS[kind].path
    while path is not None:
        page = vendor.http.get(path, params=params or None, headers=vendor.headers).json()
        names |= {entity["id"]: entity["name"] for entity in page["entities"]}
        # The address of the next page repeats the parameters.
        path, params = page.get("nextUri"), {}
    return names


def _change(vendor: Vendor, **body: Any) -> int:
    return vendor.http.post("/simulator/directory", json=body).status_code


@pytest.mark.parametrize("kind", LISTINGS)
def test_pages_add_up_to_all_names(shared_vendor: Vendor, kind: str) -> None:
    directory = shared_vendor.http.get("/simulator/directory").json()[kind]
    assert _names(shared_vendor, kind) == _names(shared_vendor, kind, pageSize=2) == directory
    assert len(set(directory.values())) == len(directory) >= 2


def test_renamed_and_deleted_entries_are_seen_at_once() -> None:
    with open_vendor(SimulatorSettings(queues=2, agents=2)) as vendor:
        (first, second), (one, two) = _names(vendor, "queues"), _names(vendor, "users")
        assert _change(vendor, kind="queues", id=first, name="Invoices") == 204
        assert _change(vendor, kind="queues", id=second, deleted=True) == 204
        assert _change(vendor, kind="users", id=one, deleted=True) == 204
        assert _names(vendor, "queues") == {first: "Invoices"}
        assert set(_names(vendor, "users")) == {two}
        assert set(_names(vendor, "users", state="any")) == {one, two}
        assert set(_names(vendor, "users", state="deleted")) == {one}
        assert _change(vendor, kind="queues", id="x", name="y") == 400
        assert _change(vendor, kind="doors", id=first, name="y") == 400


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("queues", {"pageSize": 501}, "no more than 500"),
        ("queues", {"pageNumber": 0}, "pageNumber"),
        ("queues", {"pageSize": "many"}, "pageSize"),
        ("queues", {"colour": "red"}, "colour"),
        ("users", {"state": "asleep"}, "asleep"),
        ("teams", {"pageNumber": 1}, "pageNumber"),
    ],
)
def test_wrong_parameter_is_a_400(shared_vendor: Vendor, kind: str, params: dict[str, Any], message: str) -> None:
    answer = shared_vendor.get(LISTINGS[kind].path, **params)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_missing_permission_is_a_403_that_names_it() -> None:
    settings = SimulatorSettings(clients={CLIENT: SecretStr(SECRET)}, client_permissions={CLIENT: frozenset()})
    with open_vendor(settings) as vendor:
        answers = {kind: vendor.get(listing.path) for kind, listing in LISTINGS.items()}
    assert {kind for kind, answer in answers.items() if answer.status_code == 200} == {"users", "divisions", "groups"}
    assert "routing:queue:view" in answers["queues"].json()["message"]

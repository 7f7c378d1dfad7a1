"""The vendor's listings at its own paths: its SDK gets the names that are stored, page by page."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_paths import FLOWS, KEYS, credentials, simulator
from cache_pipeline_tests.query.declared import declared

PROGRAM = Path(__file__).with_name("sdk_calls.py")
QUEUES = "/api/v2/routing/queues"
NO_QUEUES = declared(
    platform="genesys",
    name="by_medium",
    query_type="conversations",
    group_by=["mediaType"],
    metrics=["nOffered"],
    volume_metric="nOffered",
    delivery="sync",
)
_NAMES = ("Billing", "BILLING", "B*", "*s", "*UPP*", "Bil", "Queue 1*", "%", "Queue _", "\\", "**")
_VENDOR = {"queues": 30, "agents": 60}
#: All that is stored of an entry.
_HELD = ("id", "name", "self_uri", "deleted")


async def call_by_sdk(home: Path, hosts: Sequence[dict[str, str]], calls: Sequence[dict[str, Any]]) -> list[list[Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", str(PROGRAM)),
        env={**os.environ, "HOME": str(home)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(json.dumps({"hosts": hosts, "calls": calls}).encode())
    assert process.returncode == 0, errors.decode()
    return json.loads(output.decode().splitlines()[-1])


def _calls() -> list[dict[str, Any]]:
    def call(api: str, method: str, **options: Any) -> dict[str, Any]:
        return {"api": api, "method": method, "options": options}

    return [
        *(call("RoutingApi", "get_routing_queues", page_number=number, page_size=12) for number in (1, 2, 3, 4)),
        call("RoutingApi", "get_routing_queues", sort_order="desc"),
        call("RoutingApi", "get_routing_queues", page_size=100),
        call("UsersApi", "get_users"),
        call("UsersApi", "get_users", page_size=500, state="any"),
        call("UsersApi", "get_users", state="deleted", sort_order="descending"),
        call("RoutingApi", "get_routing_wrapupcodes"),
        call("RoutingApi", "get_routing_skills", page_size=2, page_number=3),
        call("AuthorizationApi", "get_authorization_divisions"),
        call("TeamsApi", "get_teams", page_size=1),
        call("TeamsApi", "get_teams", page_size=1, after="1"),
        call("ArchitectApi", "get_flows"),
        call("ArchitectApi", "get_flows", deleted=True),
        call("GroupsApi", "get_groups"),
        *(call("RoutingApi", "get_routing_queues", name=name, page_size=5) for name in _NAMES),
        call("RoutingApi", "get_routing_queues", name="*s", page_size=2, page_number=2),
        *(call("RoutingApi", "get_routing_wrapupcodes", name=name) for name in ("resolved", "Resol", "%", "_")),
        *(call("RoutingApi", "get_routing_skills", name=name) for name in ("Deliveries", "e", "German ")),
        *(call("TeamsApi", "get_teams", name=name) for name in ("late", "shift")),
    ]


def _held(page: dict[str, Any]) -> dict[str, Any]:
    """Return a page with the fields that are stored, and `state` of deleted users."""
    entities = [
        {name: entity[name] for name in _HELD if name in entity}
        | ({"state": "deleted"} if entity.get("state") == "deleted" else {})
        for entity in page["entities"]
    ]
    return {**page, "entities": entities}


async def test_sdk_gets_the_vendors_pages_and_the_vendor_is_read_once(open_api, tmp_path):
    async with open_api(FLOWS, api=KEYS, vendor=_VENDOR) as api:
        directory = (await api.vendor.get("/simulator/directory")).json()
        queue, user, flow = (next(iter(directory[kind])) for kind in ("queues", "users", "flows"))
        for kind, id_ in (("queues", queue), ("users", user), ("flows", flow)):
            await api.vendor.post("/simulator/directory", json={"kind": kind, "id": id_, "deleted": True})
        calls = _calls()
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            ((expected, answers),) = [await call_by_sdk(tmp_path, [simulator(api), ours], calls)]
            before = (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"]
            (again,) = await call_by_sdk(tmp_path, [ours], calls)
            assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == before
    for call, page, second, of_vendor in zip(calls, answers, again, expected, strict=True):
        assert second == page
        assert page == _held(page), f"{call} has a field that is not stored"
        assert page == _held(of_vendor), call
    assert sum(len(page["entities"]) for page in answers[:4]) == 29
    assert answers[8]["entities"] == [
        {"id": user, "name": "Agent 1", "state": "deleted", "self_uri": f"/api/v2/users/{user}"}
    ]


async def test_entries_are_found_by_id(open_api):
    async with open_api(FLOWS, api=KEYS, vendor=_VENDOR) as api:
        headers = await create_key(api)
        ids = list((await api.vendor.get("/simulator/directory")).json()["queues"])
        for parameters in ([("id", ids[0]), ("id", ids[1]), ("id", "unknown")], [("id", f"{ids[0]},{ids[1]}")]):
            answer = await api.http.get(QUEUES, params=parameters, headers=headers)
            assert {each["id"] for each in answer.json()["entities"]} == set(ids[:2])
            assert answer.json()["total"] == 2
        assert int(answer.headers["Age"]) < 60


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"pageSize": "501"}, "pageSize"),
        ({"pageSize": "0"}, "pageSize"),
        ({"pageNumber": "-1"}, "pageNumber"),
        ({"pageNumber": "9" * 30}, "pageNumber"),
        ({"name": "Bil*ling"}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"divisionId": "d1"}, "divisionId"),
        ({"expand": "members"}, "expand"),
        ({"sortOrder": "random"}, "sortOrder"),
        ({"id": "\x00"}, "id"),
        ({"id": ",".join("a" * 501)}, "id"),
    ],
)
async def test_what_names_cannot_answer_is_refused(open_api, parameters, word):
    async with open_api(FLOWS, api=KEYS) as api:
        answer = await api.http.get(QUEUES, params=parameters, headers=await create_key(api))
        assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == 0
    assert (answer.status_code, answer.json()["code"]) == (400, "bad.request")
    assert answer.json()["message"].startswith(word)


async def test_key_of_a_report_lists_what_the_report_has_ids_of(open_api):
    async with open_api(FLOWS, NO_QUEUES, api=KEYS) as api:
        flows = await create_key(api, reports=["flow_hour"])
        assert (await api.http.get("/api/v2/flows", headers=flows)).status_code == 200
        for path, headers in ((QUEUES, flows), (QUEUES, await create_key(api, reports=["by_medium"]))):
            answer = await api.http.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "not.authorized")
        assert (await api.http.get(QUEUES)).status_code == 401


async def test_listing_that_may_not_be_read_is_asked_for_once(open_api):
    vendor = {"client_permissions": {"demo-client": ["analytics:flowAggregate:view"]}}
    async with open_api(FLOWS, api=KEYS, vendor=vendor) as api:
        headers = await create_key(api)
        answers = [await api.http.get(QUEUES, headers=headers) for _ in range(3)]
        counters = (await api.vendor.get("/simulator/counters")).json()
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "service.unavailable")}
    assert "routing:queue:view" in answers[0].json()["message"]
    assert sum(each["count"] for each in counters["calls"] if QUEUES in each["call"]) == 1

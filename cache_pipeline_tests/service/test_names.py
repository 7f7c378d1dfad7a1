"""Names from the vendor's listings to answers."""

import json
import logging
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from cache_pipeline.account_upkeep import refresh_names
from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.errors import SchemaMismatch, UpstreamError
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.names import NameTime
from cache_pipeline.service.names import LookupResult, Names, lookups_by_column, needed_lookups, refresh_lookup
from cache_pipeline.storage.ports.names import NameScope
from cache_pipeline.vendors.genesys.lookups import LOOKUPS, read_lookup
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import OpenWorld, World

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
SCOPE = NameScope("default", "genesys/main")
REPORT = declared(
    platform="genesys",
    query_type="conversations",
    time_zone="UTC",
    granularity="P1D",
    group_by=["queueId", "mediaType"],
    metrics=["nOffered"],
    volume_metric="nOffered",
    delivery="sync",
    tiers=["hot", "history"],
)
QUEUES = tuple(lookup for lookup in LOOKUPS if lookup.name == "queues")


async def _refresh(world: World, lookups: Any = LOOKUPS) -> Any:
    return await refresh_names(world.settings, "genesys/main", lookups, world.clock())


async def _rename(world: World, **change: Any) -> None:
    assert (await world.admin.post("/simulator/directory", json={"kind": "queues", **change})).status_code == 204


async def _directory(world: World) -> dict[str, dict[str, str]]:
    return (await world.admin.get("/simulator/directory")).json()


async def test_all_pages_of_every_listing_are_stored(open_world: OpenWorld):
    async with open_world(REPORT, queues=230, agents=1) as world:
        results = await _refresh(world)
        directory = await _directory(world)
        assert results["queues"].pages == 3
        for lookup, names in directory.items():
            versions = world.service.names.versions(SCOPE, {lookup: names})[lookup]
            assert {id_: found[-1].name for id_, found in versions.items()} == names
        again = await _refresh(world)
        assert not any(result.changes for result in again.values())
        counted = (await world.admin.get("/simulator/counters")).json()["calls"]
    requests = {call["call"]: call["count"] for call in counted if call["call"].startswith("GET /api/v2/")}
    assert requests == {f"GET {lookup.path}": 6 if lookup.name == "queues" else 2 for lookup in LOOKUPS}


async def test_page_that_fails_changes_nothing(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        await _refresh(world, QUEUES)
        first, *_ = (await _directory(world))["queues"]

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.params.get("pageNumber") == "2":
                return httpx.Response(500, json={"message": "Internal error", "code": "internal.server.error"})
            page = {"entities": [{"id": first, "name": "Renamed"}], "nextUri": f"{QUEUES[0].path}?pageNumber=2"}
            return httpx.Response(200, json=page)

        later = world.clock() + timedelta(days=1)
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://vendor") as client:
            with pytest.raises(UpstreamError):
                await refresh_lookup(client, find_vendor("genesys"), QUEUES[0], world.service.names, SCOPE, later)
        versions = world.service.names.versions(SCOPE, {"queues": [first]})["queues"][first]
        assert [version.name for version in versions] == ["Billing"]


@pytest.mark.parametrize("following", [QUEUES[0].path, "/api/v2/users?pageNumber=2"])
async def test_pages_that_lead_nowhere_are_refused(following: str):
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"entities": [], "nextUri": following})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://vendor") as client:
        with pytest.raises(SchemaMismatch, match="nextUri"):
            _ = [page async for page in read_lookup(client, QUEUES[0])]


async def test_missing_permission_is_reported_once_and_fails_nothing(
    open_world: OpenWorld, caplog: pytest.LogCaptureFixture
):
    rights = {"demo-client": frozenset({"analytics:conversationAggregate:view"})}
    async with open_world(
        REPORT, client_permissions=rights, clients={"demo-client": SecretStr("demo-secret")}
    ) as world:
        with caplog.at_level(logging.WARNING):
            first, second = await _refresh(world), await _refresh(world)
        assert [each.is_new_problem for each in (first["queues"], second["queues"])] == [True, False]
        assert first["users"].problem is None
        assert sum("no names of queues" in record.message for record in caplog.records) == 1
        assert "routing:queue:view" in caplog.text
        answer = await world.service.answer(REPORT, MONDAY)
        rows = Names(world.service.names, "default").add(
            REPORT, world.service.columns(REPORT), answer.rows, NameTime.current
        )
        assert rows.column("queue_name").to_pylist() == rows.column("queue_id").to_pylist()


async def test_listing_must_stay_empty_before_its_names_end(open_world: OpenWorld, caplog: pytest.LogCaptureFixture):
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"entities": []})

    async with open_world(REPORT) as world:
        await _refresh(world, QUEUES)
        names, later = world.service.names, world.clock() + timedelta(days=1)
        ids = names.valid_ids(SCOPE, "queues")
        assert ids
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://vendor") as client:

            async def refresh(minutes: int) -> LookupResult:
                at = later + timedelta(minutes=minutes)
                return await refresh_lookup(client, find_vendor("genesys"), QUEUES[0], names, SCOPE, at)

            with caplog.at_level(logging.WARNING):
                first = await refresh(0)
            assert (first.changes, first.is_new_problem) == (None, True)
            assert "lists nothing" in caplog.text
            assert names.valid_ids(SCOPE, "queues") == ids
            # Processes that read the listing in the same moment agree with each other, and prove nothing.
            assert [(each.changes, each.is_new_problem) for each in (await refresh(0), await refresh(14))] == [
                (None, False)
            ] * 2
            world.clock.move(days=1, minutes=14)
            # A full listing in between makes the next empty one the first again.
            await _refresh(world, QUEUES)
            assert (await refresh(16)).is_new_problem
            assert names.valid_ids(SCOPE, "queues") == ids
            assert (await refresh(31)).problem is None
            assert names.valid_ids(SCOPE, "queues") == []
            assert not (await refresh(60)).changes


async def test_renamed_queue_has_its_new_name_and_its_old_one_then(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        await _refresh(world)
        directory = await _directory(world)
        renamed = next(id_ for id_, name in directory["queues"].items() if name == "Billing")
        answer = await world.service.answer(REPORT, MONDAY)
        await _rename(world, id=renamed, name="Invoices")
        world.clock.move(days=1)
        await _refresh(world)
        names, columns = Names(world.service.names, "default"), world.service.columns(REPORT)
        for when, name in ((NameTime.current, "Invoices"), (NameTime.then, "Billing")):
            rows = names.add(REPORT, columns, answer.rows, when)
            expected = {**directory["queues"], renamed: name}
            assert rows.column("queue_name").to_pylist() == [expected[id_] for id_ in rows["queue_id"].to_pylist()]
            assert rows.schema.names.index("queue_name") == rows.schema.names.index("queue_id") + 1
        assert names.current(REPORT, {"queue_id": {renamed, "x"}, "media_type": {"voice"}}) == {
            "queue_id": {renamed: "Invoices"}
        }
    assert json.loads(answer.body)["columns"].count("queue_name") == 0


def test_report_needs_only_the_lookups_of_its_columns():
    columns = report_columns(REPORT)
    assert lookups_by_column(REPORT, columns) == {"queue_id": "queues"}
    assert [lookup.name for lookup in needed_lookups(REPORT, columns)] == ["queues"]
    rows = declared(platform="genesys", query_type="conversations", rows="segments", group_by=[], metrics=["tSegmentDuration"],
                    volume_metric=None, expected_groups=None, tiers=["history"])  # fmt: skip
    assert {lookup.name for lookup in needed_lookups(rows, report_columns(rows))} == {"queues", "users", "wrapupcodes"}
    guide = declared()
    assert [lookup.name for lookup in needed_lookups(guide, report_columns(guide))] == ["queues"]
    contacts = declared(platform="cxone", query_type="contacts", metrics=["nOffered"], volume_metric="nOffered")
    assert needed_lookups(contacts, report_columns(contacts)) == ()

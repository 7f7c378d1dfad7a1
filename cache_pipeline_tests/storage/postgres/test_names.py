"""Stored names: versions by id, one tenant and account at a time."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from cache_pipeline.query.names import ListedName, NameVersion
from cache_pipeline.storage.ports.names import LookupState, NameScope, NameStore
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline.storage.postgres.names import open_names

MONDAY = datetime(2026, 1, 5, 3, tzinfo=UTC)
DAY = timedelta(days=1)
SCOPE = NameScope("default", "acme/main")


@pytest.fixture
def names(postgres_database: str) -> Iterator[NameStore]:
    migrate(postgres_database, [])
    with open_names(postgres_database) as store:
        yield store


def _listed(**names: str) -> dict[str, ListedName]:
    return {id_: ListedName(name) for id_, name in names.items()}


def test_renamed_entry_has_two_versions_and_a_deleted_one_stays(names: NameStore):
    names.update(SCOPE, "queues", _listed(a="Sales", b="Support"), MONDAY)
    assert not names.update(SCOPE, "queues", _listed(a="Sales", b="Support"), MONDAY + DAY)
    names.update(SCOPE, "queues", _listed(a="Orders"), MONDAY + 2 * DAY)
    found = names.versions(SCOPE, {"queues": ["a", "b", "c"], "users": ["a"]})
    assert found == {
        "queues": {
            "a": [
                NameVersion("Sales", MONDAY, MONDAY + 2 * DAY),
                NameVersion("Orders", MONDAY + 2 * DAY),
            ],
            "b": [NameVersion("Support", MONDAY, MONDAY + 2 * DAY)],
        },
        "users": {},
    }
    assert names.state(SCOPE) == {"queues": LookupState(MONDAY + 2 * DAY, 1, None)}


def test_earlier_listing_changes_nothing(names: NameStore):
    names.update(SCOPE, "queues", _listed(a="New"), MONDAY + DAY)
    assert not names.update(SCOPE, "queues", _listed(a="Old"), MONDAY)
    assert names.versions(SCOPE, {"queues": ["a"]})["queues"]["a"] == [NameVersion("New", MONDAY + DAY)]


def test_two_listings_of_one_instant_leave_the_second(names: NameStore):
    for name in ("First", "Second"):
        names.update(SCOPE, "queues", _listed(a=name), MONDAY)
    assert names.versions(SCOPE, {"queues": ["a"]})["queues"]["a"] == [NameVersion("Second", MONDAY)]


def test_unknown_deleted_entry_is_stored_with_its_name(names: NameStore):
    names.update(SCOPE, "users", {"a": ListedName("Agent 1", is_deleted=True)}, MONDAY)
    assert names.versions(SCOPE, {"users": ["a"]})["users"]["a"] == [NameVersion("Agent 1", MONDAY, MONDAY)]
    assert names.state(SCOPE)["users"].names == 0


def test_tenants_and_accounts_are_apart(names: NameStore):
    others = [NameScope("other", "acme/main"), NameScope("default", "acme/second")]
    for number, scope in enumerate([SCOPE, *others]):
        names.update(scope, "queues", _listed(a=f"Name {number}"), MONDAY)
    for number, scope in enumerate([SCOPE, *others]):
        assert names.versions(scope, {"queues": ["a"]})["queues"]["a"][0].name == f"Name {number}"


def test_problem_is_new_once_and_ends_with_the_next_listing(names: NameStore):
    assert names.record_problem(SCOPE, "queues", "403", MONDAY)
    assert not names.record_problem(SCOPE, "queues", "403", MONDAY + DAY)
    assert names.state(SCOPE)["queues"] == LookupState(None, 0, "403", MONDAY)
    names.update(SCOPE, "queues", _listed(a="Sales"), MONDAY)
    assert names.state(SCOPE)["queues"] == LookupState(MONDAY, 1, None)
    assert names.record_problem(SCOPE, "queues", "403", MONDAY + DAY)


def test_concurrent_listings_leave_one_valid_name(names: NameStore):
    def write(number: int) -> None:
        names.update(SCOPE, "queues", _listed(a=f"Name {number}"), MONDAY + number * DAY)

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = names.versions(SCOPE, {"queues": ["a"]})["queues"]["a"]
    assert [version.valid_to is None for version in versions] == [False] * (len(versions) - 1) + [True]
    assert versions[-1].name == "Name 7"

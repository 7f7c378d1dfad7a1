"""Names of ids: what a listing changes, and names beside ids in rows."""

from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.names import (
    ListedName,
    NameTime,
    NameVersion,
    Versions,
    add_names,
    merge_names,
    name_column,
    with_name_columns,
)
from cache_pipeline.query.schema import Column, ColumnKind


def at(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


OLD = NameVersion("Sales", at(3), at(5))
NEW = NameVersion("Orders", at(5))


def _rows(*ids: str | None) -> pa.Table:
    starts = pa.array([at(day) for day in range(1, len(ids) + 1)], pa.timestamp("us", tz="UTC"))
    return pa.table({"interval_start": starts, "queue_id": pa.array(ids, pa.string()), "offered": range(len(ids))})


def _named(rows: pa.Table, versions: Versions, when: NameTime) -> list[str | None]:
    named = add_names(rows, {"queue_id": versions}, when)
    assert named.schema.names == ["interval_start", "queue_id", "queue_name", "offered"]
    return named.column("queue_name").to_pylist()


def test_listing_opens_and_closes_names():
    latest = {
        "same": NameVersion("Same", at(1)),
        "renamed": NameVersion("Before", at(1)),
        "gone": NameVersion("Gone", at(1)),
        "deleted": NameVersion("Deleted", at(1)),
        "long gone": NameVersion("Long gone", at(1), at(2)),
        "back": NameVersion("Back", at(1), at(2)),
    }
    listed = {
        "same": ListedName("Same"),
        "renamed": ListedName("After"),
        "deleted": ListedName("Deleted", is_deleted=True),
        "back": ListedName("Back"),
        "new": ListedName("New"),
        "never seen": ListedName("Never seen", is_deleted=True),
    }
    changes = merge_names(latest, listed)
    assert changes.opened == {"renamed": "After", "back": "Back", "new": "New"}
    assert changes.closed == {"renamed", "gone", "deleted"}
    assert changes.deleted_before == {"never seen": "Never seen"}
    assert not merge_names({"same": NameVersion("Same", at(1))}, {"same": ListedName("Same")})


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.builds(ListedName, st.sampled_from("xy"), st.booleans()))))
def test_valid_names_are_always_those_listed_last(listings: list[dict[str, ListedName]]):
    versions: dict[str, list[NameVersion]] = {}
    for number, listed in enumerate(listings, start=1):
        now = at(1).replace(hour=number % 24, minute=number // 24)
        changes = merge_names({id_: found[-1] for id_, found in versions.items()}, listed)
        for id_ in changes.closed:
            last = versions[id_].pop()
            versions[id_].append(NameVersion(last.name, last.valid_from, now))
        for id_, name in changes.opened.items():
            versions.setdefault(id_, []).append(NameVersion(name, now))
        for id_, name in changes.deleted_before.items():
            versions[id_] = [NameVersion(name, now, now)]
        valid = {id_: found[-1].name for id_, found in versions.items() if found[-1].valid_to is None}
        assert valid == {id_: each.name for id_, each in listed.items() if not each.is_deleted}
        assert listed.keys() <= versions.keys()


def test_current_name_is_the_latest_for_all_rows():
    assert _named(_rows("a", "a", "b", None), {"a": [OLD, NEW]}, NameTime.current) == ["Orders", "Orders", "b", None]


def test_name_then_is_the_one_at_the_time_of_the_row():
    names = _named(_rows(*"aaaaaa"), {"a": [OLD, NEW]}, NameTime.then)
    assert names == ["Sales"] * 4 + ["Orders"] * 2


def test_deleted_id_keeps_its_last_name():
    deleted = [NameVersion("Sales", at(1), at(3)), NameVersion("Orders", at(3), at(5))]
    for when in NameTime:
        assert _named(_rows(*"aaaaaaa"), {"a": deleted}, when)[-1] == "Orders"


def test_rows_of_several_chunks_and_of_none_get_names():
    several = pa.concat_tables([_rows("a"), _rows("b", "a")])
    assert _named(several, {"a": [OLD, NEW]}, NameTime.then) == ["Sales", "b", "Sales"]
    assert _named(_rows().slice(0, 0), {"a": [NEW]}, NameTime.then) == []


def test_name_columns_follow_their_ids_and_replace_nothing():
    columns = [Column(name, ColumnKind.dimension) for name in ("queue_id", "queue_name", "wrap_up_code", "media_type")]
    lookups = {"queue_id": "queues", "wrap_up_code": "wrapupcodes"}
    found = [column.name for column in with_name_columns(columns, lookups)]
    assert found == ["queue_id", "queue_name", "wrap_up_code", "wrap_up_code_name", "media_type"]
    assert name_column("first_queue_id") == "first_queue_name"

"""Tests of how fetched chunks complete partitions, one after another."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.fetch.chunk_pool import fetch_chunks
from cache_pipeline.fetch.chunk_states import ChunkOutcome, Failed, Missing, Stored
from cache_pipeline.fetch.partition_fetch import (
    FailedPartition,
    FetchedPartition,
    PartitionProgress,
    StoredRows,
    split_into_chunks,
)
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.retention import clip_to_now
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.fetch.scripted_vendor import (
    HOUR,
    MONDAY,
    REPORT,
    SCHEMA,
    CheckedVendor,
    ScriptedVendor,
    check_answers_of,
    flat,
    hours,
    sorted_table,
)
from cache_pipeline_tests.query.declared import declared

NOTHING = StoredRows(IntervalSet(), IntervalSet(), Rows.from_table(SCHEMA.empty_table()), None, None)


@dataclass
class VerifyingFetcher:
    """Fetches chunks from a scripted vendor, without locks and stores."""

    checked: CheckedVendor

    async def fetch(self, missing: Missing) -> ChunkOutcome:
        try:
            return Stored(await self.checked.verify(missing.chunk))
        except Exception as error:  # noqa: BLE001 - an outcome here, as in the real fetcher
            return Failed(missing.chunk, error)


async def fetch_partitions(
    checked: CheckedVendor,
    partitions: Mapping[str, Interval],
    stored: StoredRows,
    chunks: Sequence[Interval],
    concurrency: int = 16,
) -> AsyncGenerator[FetchedPartition | FailedPartition]:
    """Yield every partition as soon as its chunks have ended."""
    progress = PartitionProgress(partitions, IntervalSet(chunks), stored)
    for partition in progress.finish_stored():
        yield partition
    events: asyncio.Queue[ChunkOutcome | None] = asyncio.Queue()
    pool = asyncio.create_task(fetch_chunks(VerifyingFetcher(checked), chunks, events, concurrency))
    try:
        while (event := await events.get()) is not None:
            ended = (
                progress.fail(event.chunk, event.error)[0] if isinstance(event, Failed) else progress.add(event.rows)
            )
            for partition in ended:
                yield partition
    finally:
        await cancel_and_wait([pool])


async def fetched(
    vendor: ScriptedVendor, wanted: Mapping[str, Interval], chunks: Sequence[Interval], held: StoredRows = NOTHING
) -> dict[str, FetchedPartition | FailedPartition]:
    found: dict[str, FetchedPartition | FailedPartition] = {}
    async for partition in fetch_partitions(check_answers_of(vendor), wanted, held, chunks):
        assert partition.key not in found, "every partition is yielded once"
        found[partition.key] = partition
    assert found.keys() == wanted.keys()
    return found


def rows_of(partition: FetchedPartition | FailedPartition) -> pa.Table:
    assert isinstance(partition, FetchedPartition)
    return sorted_table(partition.rows)


async def test_one_chunk_can_fill_several_partitions():
    vendor = ScriptedVendor(flat(10, 72))
    days = {f"day {n}": hours(24 * n, 24 * n + 24) for n in range(3)}
    found = await fetched(vendor, days, [hours(0, 72)])
    assert vendor.asked == [hours(0, 72)]
    for key, day in days.items():
        assert rows_of(found[key]).equals(sort_rows(vendor.rows(day)))


async def test_one_partition_can_need_several_chunks():
    vendor = ScriptedVendor(flat(10, 24))
    chunks = [hours(n, n + 6) for n in range(0, 24, 6)]
    found = await fetched(vendor, {"day": hours(0, 24)}, chunks)
    partition = found["day"]
    assert rows_of(partition).equals(sort_rows(vendor.rows(hours(0, 24))))
    assert isinstance(partition, FetchedPartition)
    assert sorted(chunk.interval for chunk in partition.chunks) == chunks


async def test_failed_chunk_fails_only_overlapping_partitions():
    failure = RuntimeError("the job failed")
    vendor = ScriptedVendor(flat(10, 96), refuse=lambda i: failure if i == hours(36, 60) else None)
    days = {f"day {n}": hours(24 * n, 24 * n + 24) for n in range(4)}
    found = await fetched(vendor, days, [hours(0, 36), hours(36, 60), hours(60, 96)])
    failed = {key: part.error for key, part in found.items() if isinstance(part, FailedPartition)}
    assert failed == {"day 1": failure, "day 2": failure}


async def test_failed_first_chunk_does_not_stop_the_others():
    vendor = ScriptedVendor(flat(10, 48), refuse=lambda i: RuntimeError("no") if i == hours(0, 24) else None)
    found = await fetched(vendor, {"a": hours(0, 24), "b": hours(24, 48)}, [hours(0, 24), hours(24, 48)])
    assert isinstance(found["a"], FailedPartition)
    assert rows_of(found["b"]).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_stored_partitions_need_no_query():
    vendor = ScriptedVendor(flat(10))
    held = StoredRows(
        IntervalSet([hours(0, 24)]), IntervalSet(), Rows.from_table(vendor.rows(hours(0, 24))), MONDAY + 24 * HOUR, None
    )
    found = await fetched(vendor, {"morning": hours(0, 12), "evening": hours(12, 24)}, [], held)
    assert vendor.asked == []
    for key, part in (("morning", hours(0, 12)), ("evening", hours(12, 24))):
        partition = found[key]
        assert rows_of(partition).equals(sort_rows(vendor.rows(part)))
        assert isinstance(partition, FetchedPartition)
        assert partition.final(REPORT) == IntervalSet([part])


async def test_stored_and_fetched_rows_form_one_partition():
    vendor = ScriptedVendor(flat(10), watermark=20)
    held = StoredRows(
        IntervalSet([hours(0, 6)]), IntervalSet(), Rows.from_table(vendor.rows(hours(0, 6))), MONDAY + 6 * HOUR, None
    )
    partition = (await fetched(vendor, {"day": hours(0, 24)}, [hours(6, 24)], held))["day"]
    assert isinstance(partition, FetchedPartition)
    assert sorted_table(partition.rows).equals(sort_rows(vendor.rows(hours(0, 24))))
    assert partition.final(REPORT) == IntervalSet([hours(0, 20)])
    assert partition.provisional(REPORT) == IntervalSet([hours(20, 24)])


async def test_refetched_part_has_the_time_of_its_answer():
    vendor = ScriptedVendor(flat(10), watermark=20)
    old = MONDAY + 7 * HOUR
    held = StoredRows(
        IntervalSet([hours(0, 6)]), IntervalSet(), Rows.from_table(vendor.rows(hours(0, 6))), MONDAY + 6 * HOUR, old
    )
    partition = (await fetched(vendor, {"day": hours(0, 24)}, [hours(6, 24)], held))["day"]
    assert isinstance(partition, FetchedPartition)
    assert partition.fetched_at == MONDAY + 2000 * HOUR


async def test_fresh_provisional_figures_stay_provisional():
    """A watermark learned later does not make rows final that were read before it."""
    vendor = ScriptedVendor(flat(10), watermark=24)
    old = MONDAY + 7 * HOUR
    held = StoredRows(
        IntervalSet([hours(0, 8)]),
        IntervalSet([hours(6, 8)]),
        Rows.from_table(vendor.rows(hours(0, 8))),
        MONDAY + 6 * HOUR,
        old,
    )
    partition = (await fetched(vendor, {"day": hours(0, 24)}, [hours(8, 24)], held))["day"]
    assert isinstance(partition, FetchedPartition)
    assert partition.provisional(REPORT) == IntervalSet([hours(6, 8)])
    assert partition.fetched_at == old


async def test_partitions_are_yielded_as_they_finish():
    vendor = ScriptedVendor(flat(10, 72))
    release = asyncio.Event()
    original = vendor.ask

    async def ask(interval: Interval):
        if interval == hours(24, 48):
            await release.wait()
        return await original(interval)

    checked = check_answers_of(vendor)
    checked.ask = ask
    days = {f"day {n}": hours(24 * n, 24 * n + 24) for n in range(3)}
    order: list[str] = []
    async for partition in fetch_partitions(checked, days, NOTHING, list(days.values())):
        order.append(partition.key)
        if len(order) == 2:
            release.set()
    assert order == ["day 0", "day 2", "day 1"]


async def test_concurrency_is_limited_after_a_lone_first_query():
    vendor = ScriptedVendor(flat(10, 240), seconds=0.005)
    seen: list[int] = []
    original = vendor.ask

    async def ask(interval: Interval):
        seen.append(vendor.in_flight + 1)
        return await original(interval)

    checked = check_answers_of(vendor)
    checked.ask = ask
    days = {f"day {n}": hours(24 * n, 24 * n + 24) for n in range(10)}
    async for _ in fetch_partitions(checked, days, NOTHING, list(days.values()), concurrency=4):
        pass
    assert seen[:2] == [1, 1]
    assert max(seen) == 4


async def test_closed_iterator_leaves_no_query_in_flight():
    vendor = ScriptedVendor(flat(10, 96), seconds=0.05)
    days = {f"day {n}": hours(24 * n, 24 * n + 24) for n in range(4)}
    fetching = fetch_partitions(check_answers_of(vendor), days, NOTHING, list(days.values()))
    async for _ in fetching:
        break
    await fetching.aclose()
    assert vendor.in_flight == 0


boundaries = st.lists(st.integers(0, 96), min_size=2, max_size=8, unique=True).map(sorted)


@settings(max_examples=25, deadline=None)
@given(boundaries, boundaries, st.sets(st.integers(0, 10)))
def test_every_partition_is_yielded_once(cuts, edges, broken):
    wanted = {f"{a}-{b}": hours(a, b) for a, b in pairwise(edges)}
    chunks = [hours(a, b) for a, b in pairwise(cuts)]
    bad = {chunk for number, chunk in enumerate(chunks) if number in broken}
    vendor = ScriptedVendor(flat(10, 96), refuse=lambda i: RuntimeError("no") if i in bad else None)
    found = asyncio.run(fetched(vendor, wanted, chunks))
    for key, span in wanted.items():
        assert isinstance(found[key], FailedPartition) == any(chunk.intersection(span) for chunk in bad)


def test_gaps_are_split_at_chunk_boundaries():
    report = declared(time_zone="Europe/Berlin", max_query_interval="P1D")
    gap = Interval.parse("2026-03-28T10:00:00Z/2026-03-30T10:00:00Z")
    assert [str(chunk) for chunk in split_into_chunks(IntervalSet([gap]), report)] == [
        "2026-03-28T10:00:00Z/2026-03-28T23:00:00Z",
        "2026-03-28T23:00:00Z/2026-03-29T22:00:00Z",
        "2026-03-29T22:00:00Z/2026-03-30T10:00:00Z",
    ]


@pytest.mark.parametrize(
    ("now", "clipped"), [(-1, None), (0, hours(0, 1)), (5.5, hours(0, 6)), (6, hours(0, 7)), (30, hours(0, 24))]
)
def test_only_elapsed_buckets_are_fetched(now: float, clipped: Interval | None):
    assert clip_to_now(hours(0, 24), REPORT, MONDAY + now * HOUR) == clipped

"""Slots that several parties share: the turns of those that wait, and what is left for a party that comes late."""

import asyncio

import pytest

from cache_pipeline.fair_slots import FairSlots


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_parties_take_turns_at_a_single_slot():
    slots, order = FairSlots(1), []

    async def use(party: str) -> None:
        async with slots.hold(party):
            order.append(party)
            await asyncio.sleep(0)

    wild = [asyncio.create_task(use("wild")) for _ in range(20)]
    await asyncio.sleep(0)
    modest = [asyncio.create_task(use("modest")) for _ in range(3)]
    await asyncio.gather(*wild, *modest)
    assert order.count("wild") == 20
    assert [place for place, party in enumerate(order) if party == "modest"][-1] <= 7


async def test_party_that_comes_late_finds_a_slot():
    slots = FairSlots(16)
    assert [sum(slots.try_acquire(party) for _ in range(100)) for party in ("a", "b", "c", "d", "e")] == [8, 4, 2, 1, 1]
    assert not slots.try_acquire("f")
    slots.release("a")
    assert slots.try_acquire("f")


async def test_free_slot_goes_to_the_party_that_holds_the_fewest():
    slots, granted = FairSlots(3), []

    async def wait(party: str) -> None:
        await slots.acquire(party)
        granted.append(party)

    for party in ("a", "b", "c"):
        await slots.acquire(party)
    waiting = [asyncio.create_task(wait(party)) for party in ("a", "d")]
    await _settle()
    slots.release("b")
    await _settle()
    assert granted == ["d"]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_cancelled_wait_takes_no_slot():
    slots = FairSlots(1)
    await slots.acquire("a")
    waiting = asyncio.create_task(slots.acquire("b"))
    await _settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    # Cancelled in the moment in which it is granted.
    waiting = asyncio.create_task(slots.acquire("b"))
    await _settle()
    slots.release("a")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.try_acquire("c")

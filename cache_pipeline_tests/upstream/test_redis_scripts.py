"""A quota command outlives the cancellation of whoever sent it, and never the caller itself."""

import asyncio

import pytest

from cache_pipeline.upstream.redis_scripts import unbroken


async def test_however_often_its_caller_is_cancelled_a_command_has_ended_when_the_caller_leaves():
    ended = asyncio.Event()

    async def command():
        await asyncio.sleep(0.05)
        ended.set()

    caller = asyncio.create_task(unbroken(command(), 1))
    for _ in range(3):
        await asyncio.sleep(0.005)
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_a_command_that_fails_after_its_caller_was_cancelled_is_not_heard_of_again():
    async def command():
        await asyncio.sleep(0.02)
        raise ConnectionError

    caller = asyncio.create_task(unbroken(command(), 1))
    await asyncio.sleep(0.005)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

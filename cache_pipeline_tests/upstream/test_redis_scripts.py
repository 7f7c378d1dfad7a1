"""A Redis command runs to completion although its caller is cancelled."""

import asyncio

import pytest

from cache_pipeline.upstream.redis_scripts import run_command


async def test_command_ends_before_its_cancelled_caller_does():
    ended = asyncio.Event()

    async def command():
        await asyncio.sleep(0.05)
        ended.set()

    caller = asyncio.create_task(run_command(command(), 1))
    for _ in range(3):
        await asyncio.sleep(0.005)
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_failed_command_of_cancelled_caller_is_not_reported():
    async def command():
        await asyncio.sleep(0.02)
        raise ConnectionError

    caller = asyncio.create_task(run_command(command(), 1))
    await asyncio.sleep(0.005)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

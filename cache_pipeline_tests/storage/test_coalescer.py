"""Tests that identical callers in one process share one task."""

import asyncio

import pytest

from cache_pipeline.storage.coalescer import Coalescer, Notify


class Work:
    """Counts how often it is started, and how often it is cancelled."""

    def __init__(self) -> None:
        self.started, self.cancelled, self.may_finish = 0, 0, asyncio.Event()

    async def __call__(self, notify: Notify[str]) -> int:
        self.started += 1
        notify("started")
        try:
            await self.may_finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        notify("finished")
        return self.started


async def test_identical_callers_share_one_task_and_its_events():
    work, events = Work(), list[str]()
    async with Coalescer[int, str]() as coalescer:
        callers = [asyncio.create_task(coalescer.run("key", work, events.append)) for _ in range(100)]
        await asyncio.sleep(0)
        work.may_finish.set()
        assert set(await asyncio.gather(*callers)) == {1}
        assert events.count("finished") == 100
        assert await coalescer.run("key", work) == 2


async def test_different_keys_run_separately():
    work = Work()
    work.may_finish.set()
    async with Coalescer[int, str]() as coalescer:
        await asyncio.gather(coalescer.run("one", work), coalescer.run("other", work))
    assert work.started == 2


async def test_work_is_cancelled_with_its_last_caller():
    work = Work()
    async with Coalescer[int, str]() as coalescer:
        one, other = (asyncio.create_task(coalescer.run("key", work)) for _ in range(2))
        await asyncio.sleep(0.01)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert work.cancelled == 0
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        assert work.cancelled == 1
        work.may_finish.set()
        assert await coalescer.run("key", work) == 2


async def test_exception_reaches_every_current_caller_only():
    async def broken(_notify: Notify[str]) -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    work = Work()
    work.may_finish.set()
    async with Coalescer[int, str]() as coalescer:
        outcomes = await asyncio.gather(*(coalescer.run("key", broken) for _ in range(3)), return_exceptions=True)
        assert [str(each) for each in outcomes] == ["no"] * 3
        assert await coalescer.run("key", work) == 1


async def test_background_work_runs_once_and_is_cancelled_on_exit():
    work = Work()
    async with Coalescer[int, str]() as coalescer:
        for _ in range(5):
            coalescer.run_in_background("key", lambda: work(lambda _event: None))
        await asyncio.sleep(0.01)
        assert work.started == 1
    assert work.cancelled == 1

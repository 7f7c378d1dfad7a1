import asyncio

import pytest

from cache_pipeline.storage.coalescer import Coalescer, Tell


class Work:
    """Counts how often it is begun, and how often it is stopped."""

    def __init__(self) -> None:
        self.begun, self.stopped, self.go_on = 0, 0, asyncio.Event()

    async def __call__(self, tell: Tell[str]) -> int:
        self.begun += 1
        tell("begun")
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        tell("ended")
        return self.begun


async def test_identical_callers_share_one_task_and_all_hear_its_news():
    work, heard = Work(), list[str]()
    async with Coalescer[int, str]() as sharing:
        callers = [asyncio.create_task(sharing.run("key", work, heard.append)) for _ in range(100)]
        await asyncio.sleep(0)
        work.go_on.set()
        assert set(await asyncio.gather(*callers)) == {1}
        assert heard.count("ended") == 100
        assert await sharing.run("key", work) == 2


async def test_different_keys_do_not_share():
    work = Work()
    work.go_on.set()
    async with Coalescer[int, str]() as sharing:
        await asyncio.gather(sharing.run("one", work), sharing.run("other", work))
    assert work.begun == 2


async def test_one_caller_that_leaves_stops_nothing_and_the_last_one_stops_it():
    work = Work()
    async with Coalescer[int, str]() as sharing:
        one, other = (asyncio.create_task(sharing.run("key", work)) for _ in range(2))
        await asyncio.sleep(0.01)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert work.stopped == 0
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        assert work.stopped == 1
        work.go_on.set()
        assert await sharing.run("key", work) == 2


async def test_what_is_raised_is_raised_to_every_caller_and_kept_from_the_next():
    async def broken(_tell: Tell[str]) -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    work = Work()
    work.go_on.set()
    async with Coalescer[int, str]() as sharing:
        outcomes = await asyncio.gather(*(sharing.run("key", broken) for _ in range(3)), return_exceptions=True)
        assert [str(each) for each in outcomes] == ["no"] * 3
        assert await sharing.run("key", work) == 1


async def test_unasked_work_runs_one_at_a_time_and_is_stopped_at_the_end():
    work = Work()
    async with Coalescer[int, str]() as sharing:
        for _ in range(5):
            sharing.begin("key", lambda: work(lambda _news: None))
        await asyncio.sleep(0.01)
        assert work.begun == 1
    assert work.stopped == 1

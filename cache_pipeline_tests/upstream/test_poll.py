"""The poll schedule, on a clock of its own."""

from itertools import islice

import pytest

from cache_pipeline.upstream.errors import JobFailed, JobOverdue
from cache_pipeline.upstream.poll import guide_delays, poll_until_done


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_the_guides_schedule_doubles_from_one_second_up_to_fifteen():
    assert list(islice(guide_delays(), 7)) == [1, 2, 4, 8, 15, 15, 15]


async def test_polling_ends_at_once_when_the_job_is_done():
    clock, answers = Clock(), iter([None, None, None, "done", "never asked"])

    async def check() -> str | None:
        return next(answers)

    assert await poll_until_done(check, guide_delays(), sleep=clock.sleep, clock=clock, deadline=60) == "done"
    assert clock.slept == [1, 2, 4, 8]
    assert next(answers) == "never asked"


async def test_polling_ends_at_once_when_the_job_failed():
    clock = Clock()

    async def check() -> None:
        raise JobFailed("17", "out of memory")

    with pytest.raises(JobFailed, match="upstream job 17 failed: out of memory"):
        await poll_until_done(check, guide_delays(), sleep=clock.sleep, clock=clock, deadline=60)
    assert clock.slept == [1]


async def test_the_last_poll_is_at_the_deadline_and_then_the_job_is_overdue():
    clock = Clock()

    async def check() -> None:
        return None

    with pytest.raises(JobOverdue, match="not done after 20 s and 5 polls"):
        await poll_until_done(check, guide_delays(), sleep=clock.sleep, clock=clock, deadline=20)
    assert clock.slept == [1, 2, 4, 8, 5]


async def test_a_schedule_that_runs_out_repeats_its_last_delay():
    clock, answers = Clock(), iter([None, None, None, 0])

    async def check() -> int | None:
        return next(answers)

    assert await poll_until_done(check, [3, 2], sleep=clock.sleep, clock=clock, deadline=60) == 0
    assert clock.slept == [3, 2, 2, 2]
    with pytest.raises(ValueError, match="at least one delay"):
        await poll_until_done(check, [], sleep=clock.sleep, clock=clock, deadline=60)

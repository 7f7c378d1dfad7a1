"""Polling a job on a controlled clock, with durations stored in a real Redis."""

from dataclasses import dataclass

import pytest
import redis.asyncio

from cache_pipeline.errors import UpstreamJobFailed, UpstreamJobOverdue
from cache_pipeline.upstream.polling import DurationEstimates, GuideSchedule, JobPoller, PollPolicy
from cache_pipeline.upstream.polling.duration_store import DurationStore
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.upstream.conftest import Clock
from cache_pipeline_tests.upstream.vendor import Valkey

Redis = redis.asyncio.Redis


@dataclass
class Status:
    is_done: bool
    percent: float | None = None


class Job:
    """A job that is done `seconds` after it was submitted; every poll takes `latency` seconds."""

    def __init__(self, clock: Clock, seconds: float, latency: float = 0.0, *, reports_percent: bool = False) -> None:
        self.clock, self.latency, self.seconds, self.reports_percent = clock, latency, seconds, reports_percent
        self.submitted = clock.now
        self.polled_at: list[float] = []

    async def check(self) -> Status:
        age = self.clock.now - self.submitted
        self.polled_at.append(age)
        self.clock.now += self.latency
        return Status(age >= self.seconds, min(100.0, 100 * age / self.seconds) if self.reports_percent else None)


def create_poller(
    clock: Clock, policy: PollPolicy = PollPolicy.guide, memory: DurationStore | None = None
) -> JobPoller:
    return JobPoller(policy, memory, sleep=clock.sleep, clock=clock)


async def test_guide_policy_follows_the_guide_schedule(clock: Clock):
    job = Job(clock, 40)
    assert (await create_poller(clock).wait_until_done("kind", job.check, deadline_seconds=600)).is_done
    assert clock.slept == [1, 2, 4, 8, 15, 15]


async def test_guide_policy_ignores_percentages_and_durations(clock: Clock, shared_redis: Redis):
    memory = DurationStore(shared_redis, "test")
    for _ in range(10):
        await memory.record("kind", after=39, by=41)
    job = Job(clock, 40, reports_percent=True)
    await create_poller(clock, PollPolicy.guide, memory).wait_until_done("kind", job.check, deadline_seconds=600)
    assert clock.slept == [1, 2, 4, 8, 15, 15]


async def test_guide_wait_begins_after_the_answer(clock: Clock):
    for policy in PollPolicy:
        job = Job(clock, 20, latency=3)
        await create_poller(clock, policy).wait_until_done("kind", job.check, deadline_seconds=600)
        assert job.polled_at == [1, 6, 13, 24]


async def test_polling_ends_at_once_when_the_job_fails(clock: Clock):
    async def check() -> Status:
        raise UpstreamJobFailed("17", "out of memory")

    with pytest.raises(UpstreamJobFailed, match="upstream job 17 failed: out of memory"):
        await create_poller(clock).wait_until_done("kind", check, deadline_seconds=60)
    assert clock.slept == [1]


@pytest.mark.parametrize("policy", PollPolicy)
async def test_job_is_overdue_after_a_poll_at_the_deadline(clock: Clock, policy: PollPolicy):
    with pytest.raises(UpstreamJobOverdue, match="not done after 20 s and 5 polls"):
        await create_poller(clock, policy).wait_until_done("kind", Job(clock, 99).check, deadline_seconds=20)
    assert clock.slept == [1, 2, 4, 8, 5]


async def test_every_poll_reports_its_percentage(clock: Clock):
    percentages: list[float | None] = []
    await create_poller(clock).wait_until_done(
        "kind", Job(clock, 4, reports_percent=True).check, deadline_seconds=60, on_progress=percentages.append
    )
    assert percentages == [25, 75, 100]


async def test_durations_of_one_process_save_polls_of_others(clock: Clock, shared_redis: Redis):
    counts: list[int] = []
    for _ in range(8):
        job = Job(clock, 119)
        memory = DurationStore(shared_redis, "test")
        await create_poller(clock, PollPolicy.adaptive, memory).wait_until_done("kind", job.check, deadline_seconds=600)
        counts.append(len(job.polled_at))
    assert counts[0] == 11, "a cold start uses the guide's schedule"
    assert counts[-1] <= 3
    other = Job(clock, 119)
    await create_poller(clock, PollPolicy.adaptive, DurationStore(shared_redis, "test")).wait_until_done(
        "other", other.check, deadline_seconds=600
    )
    assert len(other.polled_at) == 11, "durations are kept by kind"


async def test_adopted_job_records_no_duration_at_its_first_poll(clock: Clock, shared_redis: Redis):
    memory = DurationStore(shared_redis, "test")
    job = Job(clock, 30)
    clock.now += 500
    await create_poller(clock, PollPolicy.adaptive, memory).wait_until_done(
        "kind", job.check, deadline_seconds=600, age_seconds=500
    )
    assert job.polled_at == [501]
    assert await memory.get("kind") == DurationEstimates()


async def test_durations_expire_and_unreadable_ones_are_ignored(shared_redis: Redis):
    memory, key = DurationStore(shared_redis, "test"), UpstreamKeys("test").durations("kind")
    for unreadable in ("[1]", "{", '{"a": 1}', '{"1": null}'):
        await shared_redis.set(key, unreadable)
        assert await memory.get("kind") == DurationEstimates()
    await memory.record("kind", after=1, by=2)
    assert (await memory.get("kind")).weights
    assert 0 < await shared_redis.ttl(key) <= 30 * 86_400


async def test_guide_schedule_is_used_without_redis(clock: Clock):
    server = Valkey()
    async with Redis.from_url(server.url) as unreachable:
        memory = DurationStore(unreachable, "test")
        await create_poller(clock, PollPolicy.adaptive, memory).wait_until_done(
            "kind", Job(clock, 20).check, deadline_seconds=600
        )
    assert clock.slept == [1, 2, 4, 8, 15]


async def test_shorter_schedule_shortens_every_wait(clock: Clock):
    poller = JobPoller(guide=GuideSchedule(0.01, 0.05), sleep=clock.sleep, clock=clock)
    await poller.wait_until_done("kind", Job(clock, 0.2).check, deadline_seconds=60)
    assert clock.slept == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05, 0.05])


def test_settings_select_the_policy(monkeypatch: pytest.MonkeyPatch):
    from cache_pipeline.errors import SettingsError
    from cache_pipeline.settings import read_settings

    account = (
        '{"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "a", "client_secret": "b"}], "poll_policy": "%s"}'
    )
    for policy in PollPolicy:
        monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", account % policy)
        settings = read_settings()
        assert PollPolicy(settings.accounts["reportdata"]["main"].poll_policy) is policy
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", account % "often")
    with pytest.raises(SettingsError, match="POLL_POLICY"):
        read_settings()

"""Waiting for a job, on a clock of its own, with what was learned in a real Redis."""

from dataclasses import dataclass

import pytest
import redis.asyncio

from cache_pipeline.errors import UpstreamJobFailed, UpstreamJobOverdue
from cache_pipeline.upstream.polling import DurationEstimates, DurationStore, GuideSchedule, JobPoller, PollPolicy
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.upstream.conftest import Clock
from cache_pipeline_tests.upstream.vendor import Valkey

Redis = redis.asyncio.Redis


@dataclass
class Status:
    done: bool
    percent: float | None = None


class Job:
    """Done so many seconds after it was submitted; every poll takes a moment."""

    def __init__(self, clock: Clock, seconds: float, latency: float = 0.0, *, tells: bool = False) -> None:
        self.clock, self.latency, self.seconds, self.tells = clock, latency, seconds, tells
        self.submitted = clock.now
        self.asked: list[float] = []

    async def check(self) -> Status:
        age = self.clock.now - self.submitted
        self.asked.append(age)
        self.clock.now += self.latency
        return Status(age >= self.seconds, min(100.0, 100 * age / self.seconds) if self.tells else None)


def pacing(clock: Clock, policy: PollPolicy = PollPolicy.guide, memory: DurationStore | None = None) -> JobPoller:
    return JobPoller(policy, memory, sleep=clock.sleep, clock=clock)


async def test_the_policy_guide_waits_as_the_guide_says(clock: Clock):
    job = Job(clock, 40)
    assert (await pacing(clock).wait_until_done("kind", job.check, deadline_seconds=600)).done
    assert clock.slept == [1, 2, 4, 8, 15, 15]


async def test_the_policy_guide_goes_by_neither_percentages_nor_durations(clock: Clock, shared_redis: Redis):
    memory = DurationStore(shared_redis, "test")
    for _ in range(10):
        await memory.learn("kind", after=39, by=41)
    job = Job(clock, 40, tells=True)
    await pacing(clock, PollPolicy.guide, memory).wait_until_done("kind", job.check, deadline_seconds=600)
    assert clock.slept == [1, 2, 4, 8, 15, 15]


async def test_the_guides_wait_begins_when_the_answer_has_come(clock: Clock):
    for policy in PollPolicy:
        job = Job(clock, 20, latency=3)
        await pacing(clock, policy).wait_until_done("kind", job.check, deadline_seconds=600)
        assert job.asked == [1, 6, 13, 24]


async def test_polling_ends_at_once_when_the_job_failed(clock: Clock):
    async def check() -> Status:
        raise UpstreamJobFailed("17", "out of memory")

    with pytest.raises(UpstreamJobFailed, match="upstream job 17 failed: out of memory"):
        await pacing(clock).wait_until_done("kind", check, deadline_seconds=60)
    assert clock.slept == [1]


@pytest.mark.parametrize("policy", PollPolicy)
async def test_the_last_poll_is_at_the_deadline_and_then_the_job_is_overdue(clock: Clock, policy: PollPolicy):
    with pytest.raises(UpstreamJobOverdue, match="not done after 20 s and 5 polls"):
        await pacing(clock, policy).wait_until_done("kind", Job(clock, 99).check, deadline_seconds=20)
    assert clock.slept == [1, 2, 4, 8, 5]


async def test_percentages_are_heard_at_every_poll(clock: Clock):
    heard: list[float | None] = []
    await pacing(clock).wait_until_done(
        "kind", Job(clock, 4, tells=True).check, deadline_seconds=60, on_progress=heard.append
    )
    assert heard == [25, 75, 100]


async def test_what_one_process_learns_spares_the_next_its_polls(clock: Clock, shared_redis: Redis):
    counts: list[int] = []
    for _ in range(8):
        job = Job(clock, 119)
        memory = DurationStore(shared_redis, "test")
        await pacing(clock, PollPolicy.adaptive, memory).wait_until_done("kind", job.check, deadline_seconds=600)
        counts.append(len(job.asked))
    assert counts[0] == 11, "a cold start is the guide's schedule"
    assert counts[-1] <= 3
    other = Job(clock, 119)
    await pacing(clock, PollPolicy.adaptive, DurationStore(shared_redis, "test")).wait_until_done(
        "other", other.check, deadline_seconds=600
    )
    assert len(other.asked) == 11, "another kind knows nothing of it"


async def test_a_job_taken_over_teaches_nothing_it_does_not_show(clock: Clock, shared_redis: Redis):
    memory = DurationStore(shared_redis, "test")
    job = Job(clock, 30)
    clock.now += 500
    await pacing(clock, PollPolicy.adaptive, memory).wait_until_done(
        "kind", job.check, deadline_seconds=600, age_seconds=500
    )
    assert job.asked == [501]
    assert await memory.of("kind") == DurationEstimates()


async def test_what_is_learned_expires_and_survives_what_it_cannot_read(shared_redis: Redis):
    memory, key = DurationStore(shared_redis, "test"), UpstreamKeys("test").durations("kind")
    for rubbish in ("[1]", "{", '{"a": 1}', '{"1": null}'):
        await shared_redis.set(key, rubbish)
        assert await memory.of("kind") == DurationEstimates()
    await memory.learn("kind", after=1, by=2)
    assert (await memory.of("kind")).weights
    assert 0 < await shared_redis.ttl(key) <= 30 * 86_400


async def test_without_redis_jobs_are_polled_by_the_guides_schedule(clock: Clock):
    server = Valkey()
    async with Redis.from_url(server.url) as nobody:
        memory = DurationStore(nobody, "test")
        await pacing(clock, PollPolicy.adaptive, memory).wait_until_done(
            "kind", Job(clock, 20).check, deadline_seconds=600
        )
    assert clock.slept == [1, 2, 4, 8, 15]


async def test_a_shorter_guide_shortens_every_wait(clock: Clock):
    quick = JobPoller(guide=GuideSchedule(0.01, 0.05), sleep=clock.sleep, clock=clock)
    await quick.wait_until_done("kind", Job(clock, 0.2).check, deadline_seconds=60)
    assert clock.slept == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05, 0.05])


def test_settings_choose_the_policy(monkeypatch: pytest.MonkeyPatch):
    from cache_pipeline.errors import SettingsError
    from cache_pipeline.settings import read_settings

    account = (
        '{"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "a", "client_secret": "b"}], "poll_policy": "%s"}'
    )
    for policy in PollPolicy:
        monkeypatch.setenv("CACHE_PIPELINE_REPORTDATA", account % policy)
        settings = read_settings()
        assert settings.reportdata is not None
        assert PollPolicy(settings.reportdata.poll_policy) is policy
    monkeypatch.setenv("CACHE_PIPELINE_REPORTDATA", account % "often")
    with pytest.raises(SettingsError, match="POLL_POLICY"):
        read_settings()

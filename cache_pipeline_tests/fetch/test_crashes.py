"""Processes that are killed, frozen or raced: no query is sent twice, and history has all rows once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.redis.single_flight import RedisSingleFlight
from cache_pipeline_tests.fetch.crashing_process import STEPS
from cache_pipeline_tests.query.declared import with_changes
from cache_pipeline_tests.world import NOON, REPORT, OpenWorld, World

pytestmark = pytest.mark.system

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
#: Long enough for a busy machine to renew it in time, short enough to wait for.
LEASE = 1.5


class CrashingProcesses:
    """Forks processes that run the service."""

    def __init__(self, process: "subprocess.Popen[str]", postgres: str, redis: str) -> None:
        self._process, self._postgres, self._redis = process, postgres, redis

    def begin(self, world: World, *runs: dict[str, Any], lease: float = LEASE, report: Report = REPORT) -> None:
        order = {
            "postgres": self._postgres,
            "redis": self._redis,
            "vendor": str(world.admin.base_url).rstrip("/"),
            "report": report.model_dump_json(),
            "now": NOON.isoformat(),
            "lease": lease,
            "runs": [{"interval": str(MONDAY)} | run for run in runs],
        }
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    async def next_event(self) -> tuple[str, int, int]:
        assert self._process.stdout
        event = json.loads(await asyncio.to_thread(self._process.stdout.readline))
        return event["event"], event["code"], event["pid"]

    async def run(self, world: World, **run: Any) -> tuple[str, int]:
        self.begin(world, run)
        return (await self.next_event())[:2]


@pytest.fixture(scope="module")
def fork_server() -> Iterator["subprocess.Popen[str]"]:
    """Start a process that has imported everything, to be forked."""
    command = [sys.executable, "-m", "cache_pipeline_tests.fetch.crashing_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=10)


@pytest.fixture
def processes(fork_server: "subprocess.Popen[str]", postgres_database: str, redis_database: str) -> CrashingProcesses:
    return CrashingProcesses(fork_server, postgres_database, redis_database)


async def answer_after_restart(world: World, interval: Interval = MONDAY) -> list[Any]:
    """Return the rows that another process answers, with the same short lease as the dead processes had."""
    async with RedisSingleFlight(world.redis, lease_seconds=LEASE, look_seconds=0.2) as flights:
        service = replace(world.service, single_flight=flights)
        return sorted(json.loads((await service.answer(REPORT, interval)).body)["rows"])


def spans(world: World) -> list[Interval]:
    """Return the interval of every query that was ever sent."""
    with world.service.ledger._pool.connection() as connection:
        rows = connection.execute(
            "SELECT lower(interval), upper(interval) FROM cache_pipeline_state.upstream_query"
        ).fetchall()
    return [Interval(start, end) for start, end in rows]


def entries(world: World) -> list[tuple[str, bool]]:
    with world.service.ledger._pool.connection() as connection:
        rows = connection.execute(
            "SELECT state, ended_at IS NULL FROM cache_pipeline_state.upstream_query ORDER BY id"
        ).fetchall()
    return [(state, is_open) for state, is_open in rows]


async def assert_stored_once(world: World, interval: Interval) -> None:
    history, series = world.service.history, world.service.series(REPORT)
    assert history.coverage(series).final == IntervalSet([interval])
    stored = history.read(series, interval, world.service.columns(REPORT))
    assert stored.num_rows == len(await world.truth(REPORT, interval))
    assert not [state for state, is_open in entries(world) if is_open]


@pytest.mark.parametrize("step", STEPS)
async def test_query_killed_at_any_step_is_resumed(open_world: OpenWorld, processes: CrashingProcesses, step: str):
    """Only a kill between the vendor's acceptance and its record costs exactly one more query."""
    async with open_world() as world:
        assert await processes.run(world, step=step) == ("killed", signal.SIGKILL)
        before = await world.submits()
        assert before == (0 if step == "intended" else 1)
        assert world.service.history.coverage(world.service.series(REPORT)).final == (
            IntervalSet([MONDAY]) if step == "stored" else IntervalSet()
        )
        assert await answer_after_restart(world) == await world.truth(REPORT, MONDAY)
        assert await world.submits() == (2 if step == "sent" else 1)
        await assert_stored_once(world, MONDAY)
        assert [state for state, _ in entries(world)] == (["lost"] if step in ("intended", "sent") else []) + ["stored"]


async def test_parts_of_a_killed_query_are_resumed(open_world: OpenWorld, processes: CrashingProcesses):
    async with open_world(reportdata_max_rows=90) as world:
        undisturbed = replace(world.service, tenant="other")
        await undisturbed.answer(REPORT, MONDAY)
        needed = await world.submits()
        assert needed > 2
        assert await processes.run(world, step="recorded", number=3) == ("killed", signal.SIGKILL)
        assert await answer_after_restart(world) == await world.truth(REPORT, MONDAY)
        # The parts are sent concurrently: those being sent when the process was killed may have arrived.
        lost = [state for state, _ in entries(world)].count("lost")
        assert 2 * needed <= await world.submits() <= 2 * needed + lost
        await assert_stored_once(world, MONDAY)


async def test_overlapping_processes_never_fetch_an_hour_twice(open_world: OpenWorld, processes: CrashingProcesses):
    """Two processes share one of their two days, and a third needs only hours of it."""
    days = [Interval(MONDAY.start + timedelta(days=each), MONDAY.end + timedelta(days=each)) for each in (-6, -5, -4)]
    asked = [
        Interval(days[0].start, days[1].end),
        Interval(days[1].start, days[2].end),
        Interval(days[1].start + timedelta(hours=8), days[1].start + timedelta(hours=16)),
    ]
    async with open_world(job_seconds_base=2.0) as world:

        async def advance_clock() -> None:
            while True:
                await asyncio.sleep(0.2)
                world.clock.move(seconds=0.4)

        clock_task = asyncio.create_task(advance_clock())
        # No answer is doubted, so that none is split.
        trusting = with_changes(REPORT, expected_groups=1)
        processes.begin(world, *({"interval": str(each)} for each in asked), report=trusting)
        assert [(await processes.next_event())[:2] for _ in asked] == [("exited", 0)] * 3
        clock_task.cancel()
        whole, sent = Interval(days[0].start, days[2].end), spans(world)
        assert await world.submits() == len(sent)
        assert sum((each.length for each in sent), timedelta(0)) == whole.length
        assert await answer_after_restart(world, whole) == await world.truth(REPORT, whole)
        assert await world.submits() == len(sent)
        await assert_stored_once(world, whole)


async def test_frozen_holder_is_fenced_off(open_world: OpenWorld, processes: CrashingProcesses):
    async with open_world() as world:
        processes.begin(world, {"step": "verified", "signal": signal.SIGSTOP}, lease=0.6)
        event, _, frozen = await processes.next_event()
        assert event == "stopped"
        try:
            assert await answer_after_restart(world) == await world.truth(REPORT, MONDAY)
            restated = world.service.history.coverage(world.service.series(REPORT), MONDAY)
            with world.service.ledger._pool.connection() as connection:
                connection.execute("UPDATE history.queue_hour SET offered = offered + 1000")
        finally:
            os.kill(frozen, signal.SIGCONT)
        # It finds that it lost the lease, reads coverage again, and answers from what the other stored.
        assert (await processes.next_event())[:2] == ("exited", 0)
        stored = world.service.history.read(world.service.series(REPORT), MONDAY, world.service.columns(REPORT))
        assert min(stored["offered"].to_pylist()) >= 1000, "the frozen process overwrote its successor"
        assert world.service.history.coverage(world.service.series(REPORT), MONDAY) == restated
        assert await world.submits() == 1


async def test_flushed_redis_causes_no_second_query(open_world: OpenWorld, processes: CrashingProcesses):
    async with open_world(job_seconds_base=20.0) as world:
        processes.begin(world, {})
        while await world.submits() == 0:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)
        await world.redis.flushall()
        waiting = asyncio.create_task(answer_after_restart(world))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        world.clock.move(seconds=60)
        assert (await processes.next_event())[:2] == ("exited", 0)
        assert await waiting == await world.truth(REPORT, MONDAY)
        assert await world.submits() == 1
        await assert_stored_once(world, MONDAY)

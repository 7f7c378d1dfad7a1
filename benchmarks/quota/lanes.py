"""Lanes under full load, in one process against the shared quota: what backfill's polls and a raised request get.

Scheduled submits take every slot that they can, for some windows. Meanwhile backfill polls the jobs that the vendor already has,
and one request of backfill is raised to interactive while it waits, as it is when a caller waits for its result.
"""

import asyncio
import time

import redis.asyncio

from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.request_lane import RaisableLane
from cache_pipeline.upstream.quota import Purpose, QuotaPolicy
from cache_pipeline.upstream.quota.quota import Quota

LANE_WINDOW_SECONDS = 3.0
_CLIENT, _SENDERS, _WINDOWS = "lanes", 15, 5
_POLICY = QuotaPolicy(limit=60, window_seconds=LANE_WINDOW_SECONDS, default_pause_seconds=LANE_WINDOW_SECONDS)


async def measure_lanes(redis_url: str) -> tuple[float, float, float]:
    """Return the polls of backfill per window, and the seconds that a raised and an interactive request wait."""
    async with redis.asyncio.Redis.from_url(redis_url) as shared:
        await shared.flushall()
        quota = Quota(shared, _CLIENT, {_CLIENT: 1}, _POLICY)

        async def send(lane: Lane | RaisableLane, *, is_follow_up: bool = False) -> None:
            grant = await quota.acquire(
                lane, _CLIENT if is_follow_up else None, purpose=Purpose(is_follow_up=is_follow_up)
            )
            await quota.settle(grant, remaining=None, retry_after=None, rejected=False, status=200)

        async def keep_submitting() -> None:
            while True:
                await send(Lane.scheduled)

        polls = 0

        async def keep_polling() -> None:
            nonlocal polls
            while True:
                await send(Lane.backfill, is_follow_up=True)
                polls += 1

        async with asyncio.TaskGroup() as group:
            load = [group.create_task(keep_submitting()) for _ in range(_SENDERS)]
            # An empty Redis grants one request at a time for a window.
            await asyncio.sleep(2 * _POLICY.window_seconds)
            polling = group.create_task(keep_polling())
            await asyncio.sleep(_WINDOWS * _POLICY.window_seconds)
            polling.cancel()
            lane = RaisableLane(Priority(Lane.backfill))
            waiting = group.create_task(send(lane))
            await asyncio.sleep(_POLICY.window_seconds)
            raised_at = time.monotonic()
            lane.raise_to(Priority(Lane.interactive))
            await waiting
            raised = time.monotonic() - raised_at
            asked_at = time.monotonic()
            await send(Lane.interactive)
            interactive = time.monotonic() - asked_at
            for task in load:
                task.cancel()
        return polls / _WINDOWS, raised, interactive

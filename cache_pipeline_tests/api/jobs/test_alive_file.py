"""The file that shows a supervisor that a worker's event loop runs."""

import asyncio
import os
import time

import pytest

from cache_pipeline.api.jobs.alive_file import create_alive_file, touch_regularly
from cache_pipeline.api.jobs.worker_process import run_worker
from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import JobSettings, Settings


def touched(path):
    return path.stat().st_mtime_ns


async def test_file_is_touched_while_the_event_loop_runs(tmp_path):
    path = tmp_path / "alive"
    create_alive_file(path)
    os.utime(path, (0, 0))
    task = asyncio.create_task(touch_regularly(path, 0.01))
    try:
        async with asyncio.timeout(10):
            while touched(path) == 0:  # noqa: ASYNC110 - the file is the only sign
                await asyncio.sleep(0.01)
        os.utime(path, (0, 0))
        time.sleep(0.05)  # noqa: ASYNC251 - the event loop hangs
        assert touched(path) == 0
    finally:
        task.cancel()


async def test_file_that_cannot_be_written_stops_the_worker(tmp_path):
    path = tmp_path / "missing" / "alive"
    settings = Settings(jobs=JobSettings(alive_file=path))
    with pytest.raises(SettingsError, match=r"ALIVE_FILE: .*alive cannot be written"):
        await run_worker(settings, asyncio.Event(), print)

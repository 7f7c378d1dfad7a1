"""The file by which a supervisor sees that a worker's event loop runs: a worker listens on no port that could be probed."""

import asyncio
from pathlib import Path

from cache_pipeline.errors import SettingsError

_INTERVAL_SECONDS = 1.0


def create_alive_file(path: Path) -> None:
    """Create the file.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        path.touch()
    except OSError as error:
        raise SettingsError(
            f"CACHE_PIPELINE_JOBS__ALIVE_FILE: {path} cannot be written ({error.strerror}): name a file in a folder that "
            "the worker may write"
        ) from error


async def touch_regularly(path: Path, seconds: float = _INTERVAL_SECONDS) -> None:
    """Touch the file at regular intervals until cancelled."""
    while True:
        # In a thread it would say nothing about the event loop.
        path.touch()  # noqa: ASYNC240
        await asyncio.sleep(seconds)

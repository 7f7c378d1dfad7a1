"""Commands to Redis that never break off half way, whose failing can be told from an answer, and whose answers read alike."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from importlib.resources import files
from typing import Any, TypeVar

import redis.asyncio
import redis.exceptions

T = TypeVar("T")

AWAY = (redis.exceptions.RedisError, OSError, TimeoutError)
"""What a command raises when Redis cannot be asked."""


def read_scripts(client: redis.asyncio.Redis, package: str) -> dict[str, Any]:
    """Gives every `<name>.lua` of a package by its name, to be called with `keys` and `args`."""
    return {
        entry.name.removesuffix(".lua"): client.register_script(entry.read_text("utf-8"))
        for entry in files(package).iterdir()
        if entry.name.endswith(".lua")
    }


async def unbroken(command: Awaitable[T], limit: float) -> T:
    """Waits for a command; a caller who is cancelled leaves only once it has ended.

    A cancellation inside redis-py may be swallowed or break a connection that others share, and until the command has ended
    nobody can say what it did.

    Raises:
        TimeoutError: No answer within `limit` seconds.
    """

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await command

    running = asyncio.ensure_future(bounded())
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # Cancelled again while it waits here, as nested task groups do, it would leave the command behind after all.
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise


def text_of(value: str | bytes) -> str:
    """What Redis answered, however its client decodes."""
    return value.decode() if isinstance(value, bytes) else value

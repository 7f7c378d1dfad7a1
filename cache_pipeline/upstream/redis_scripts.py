"""Commands to Redis that never break off half way, whose failing can be told from an answer, and whose answers read alike."""

import asyncio
from collections.abc import Awaitable
from importlib.resources import files
from typing import Any, TypeVar

import redis.asyncio
import redis.exceptions

from cache_pipeline.aio import finish

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

    return await finish(bounded())


def text_of(value: str | bytes) -> str:
    """What Redis answered, however its client decodes."""
    return value.decode() if isinstance(value, bytes) else value

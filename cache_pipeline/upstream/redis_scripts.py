"""Helpers for Redis commands: load Lua scripts, run a command to completion with a timeout, decode answers."""

import asyncio
from collections.abc import Awaitable
from importlib.resources import files
from typing import Any, TypeVar

import redis.asyncio

from cache_pipeline.aio import finish

T = TypeVar("T")


def load_scripts(client: redis.asyncio.Redis, package: str) -> dict[str, Any]:
    """Return every `<name>.lua` of a package by its name; call a script with `keys` and `args`."""
    return {
        entry.name.removesuffix(".lua"): client.register_script(entry.read_text("utf-8"))
        for entry in files(package).iterdir()
        if entry.name.endswith(".lua")
    }


async def run_command(command: Awaitable[T], timeout_seconds: float) -> T:
    """Await a command to completion even if the caller is cancelled, then re-raise the cancellation.

    A cancellation inside redis-py may be swallowed, or it may break a connection that others share. And until the command has
    ended, its effect is not known.

    Raises:
        TimeoutError: No answer within `timeout_seconds`.
    """

    async def bounded() -> T:
        async with asyncio.timeout(timeout_seconds):
            return await command

    return await finish(bounded())


def decode_text(value: str | bytes) -> str:
    """Return an answer of Redis as text, whether or not its client decodes answers."""
    return value.decode() if isinstance(value, bytes) else value

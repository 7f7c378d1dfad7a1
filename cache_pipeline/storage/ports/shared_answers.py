"""Answers of vendors that several callers share for a short time."""

from __future__ import annotations

from typing import Protocol


class SharedAnswerStore(Protocol):
    """Answers of vendors that several callers share for a short time."""

    async def get(self, name: str) -> bytes | None:
        """Return an answer, or None if it is not kept."""
        ...

    async def put(self, name: str, content: bytes, seconds: int) -> None:
        """Keep an answer for some seconds, unless it is too large or too much is kept already."""
        ...

    async def remove(self, name: str) -> None:
        """Forget an answer."""
        ...

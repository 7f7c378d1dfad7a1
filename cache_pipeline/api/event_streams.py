"""What all event streams have in common: their headers, and how many of them a key may have open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from cache_pipeline.api.problems import Problem
from cache_pipeline.storage.ports.api_keys import Principal

#: How often a comment is sent, so that proxies do not close a silent stream.
KEEP_ALIVE_SECONDS = 10.0
STREAM_HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
#: Event streams that one key may have open in one process.
_MAX_STREAMS = 20


def check_streams(open_streams: Counter[str], caller: Principal) -> None:
    """Refuse a stream to a key that has too many.

    Raises:
        Problem: 429.
    """
    if open_streams[caller.id] >= _MAX_STREAMS:
        raise Problem(
            "too-many-streams",
            429,
            f"this key has {_MAX_STREAMS} event streams open: close some, or poll instead",
            headers={"Retry-After": "5"},
        )


@contextmanager
def open_stream(open_streams: Counter[str], caller: Principal) -> Generator[None]:
    """Count a stream of a key while the block lasts."""
    open_streams[caller.id] += 1
    try:
        yield
    finally:
        open_streams[caller.id] -= 1
        if not open_streams[caller.id]:
            del open_streams[caller.id]

"""The correlation id: one id for all work on one request, from HTTP request to job, Dagster run and vendor call."""

from __future__ import annotations

import random
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

# A context variable instead of an argument, because the code that logs is far below the code that knows the caller.
_CURRENT: ContextVar[str | None] = ContextVar("correlation_id", default=None)
#: An id from outside is repeated in logs and headers, so it may contain only these characters.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def correlation_id() -> str | None:
    """Return the current id, or None outside of any scope."""
    return _CURRENT.get()


def new_correlation_id() -> str:
    """Return a unique id of 32 hexadecimal digits, like a trace id."""
    # It must be unique but not secret; a secret would cost a system call for every answer.
    return f"{random.getrandbits(128):032x}"


def accept_correlation_id(request_id: str | None, trace_parent: str | None) -> str:
    """Return the id of a request: its valid ``X-Request-ID``, else its trace id, else a new one."""
    if request_id and _REQUEST_ID.fullmatch(request_id):
        return request_id
    trace = _TRACE_PARENT.fullmatch(trace_parent) if trace_parent else None
    return trace[1] if trace else new_correlation_id()


@contextmanager
def correlation_scope(name: str | None) -> Generator[None]:
    """Set the id for the block and for all tasks started in it."""
    token = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(token)

"""One id for everything that is done for one asker: in the HTTP request, the job, the Dagster run, each call of the vendor."""

from __future__ import annotations

import random
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

# A context variable and no argument: what logs is far below what knows who asked.
_CURRENT: ContextVar[str | None] = ContextVar("correlation_id", default=None)
#: What others send is repeated in logs and headers, so it may be no more than a name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def correlation_id() -> str | None:
    """The id of what is being done; None outside of anything."""
    return _CURRENT.get()


def new_correlation_id() -> str:
    """An id that nobody else has: 32 hexadecimal digits, as a trace's."""
    # It only has to differ; a secret would cost a call of the system for each answer.
    return f"{random.getrandbits(128):032x}"


def accept_correlation_id(request_id: str | None, trace_parent: str | None) -> str:
    """The id of a request that may bring its own: its ``X-Request-ID``, else its trace's, else a new one."""
    if request_id and _NAME.fullmatch(request_id):
        return request_id
    trace = _TRACE_PARENT.fullmatch(trace_parent) if trace_parent else None
    return trace[1] if trace else new_correlation_id()


@contextmanager
def correlation_scope(name: str | None) -> Generator[None]:
    """Whatever is done in the block, and in tasks begun in it, is done under this id."""
    token = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(token)

"""Takes correlation id and trace from where something was asked to where it is done."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cache_pipeline.telemetry.correlation import correlation_id, correlation_scope, new_correlation_id

_CORRELATION = "correlation_id"
#: W3C's ``traceparent``, whatever else a process may be set up to understand.
_TRACE = TraceContextTextMapPropagator()


def current_context() -> dict[str, str]:
    """What to send along: a few names, none of them secret."""
    carrier: dict[str, str] = {}
    _TRACE.inject(carrier)
    if name := correlation_id():
        carrier[_CORRELATION] = name
    return carrier


@contextmanager
def resume_context(carrier: Mapping[str, str]) -> Generator[None]:
    """Do something for whoever sent this along."""
    token = context.attach(_TRACE.extract(carrier, context.get_current()))
    try:
        with correlation_scope(carrier.get(_CORRELATION) or new_correlation_id()):
            yield
    finally:
        context.detach(token)

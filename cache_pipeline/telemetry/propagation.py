"""Propagation of correlation id and trace context from the process that requests work to the one that does it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cache_pipeline.telemetry.correlation import correlation_id, correlation_scope, new_correlation_id

_CORRELATION_KEY = "correlation_id"
#: Always W3C's ``traceparent``, whatever other propagators a process has configured.
_PROPAGATOR = TraceContextTextMapPropagator()


def current_context() -> dict[str, str]:
    """Return what to send along: a few ids, none of them secret."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if current_id := correlation_id():
        carrier[_CORRELATION_KEY] = current_id
    return carrier


@contextmanager
def resume_context(carrier: Mapping[str, str]) -> Generator[None]:
    """Run the block in the context that `current_context` captured elsewhere."""
    token = context.attach(_PROPAGATOR.extract(carrier, context.get_current()))
    try:
        with correlation_scope(carrier.get(_CORRELATION_KEY) or new_correlation_id()):
            yield
    finally:
        context.detach(token)

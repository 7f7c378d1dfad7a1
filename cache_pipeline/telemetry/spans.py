"""Spans of the package's own work. Without a tracer provider (see `trace_export`) they cost almost nothing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, ProxyTracerProvider, Span

from cache_pipeline.telemetry.correlation import correlation_id

#: Uses the process's tracer provider, even one that is set later.
_TRACER = trace.get_tracer("cache_pipeline")
_PREFIX = "cache_pipeline."


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Generator[Span]:
    """Record the block as a child of the current span.

    Do not keep a span open over a ``yield`` of an asynchronous generator, which may resume in another context.

    Args:
        name: A name of low cardinality. Details that vary belong in attributes.
        attributes: Details of the work. They must contain no secrets and no row data.
    """
    if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        yield INVALID_SPAN
        return
    with _TRACER.start_as_current_span(name) as current:
        if current.is_recording():
            current.set_attributes({f"{_PREFIX}{key}": value for key, value in attributes.items()})
            if current_id := correlation_id():
                current.set_attribute(f"{_PREFIX}correlation_id", current_id)
        yield current


def annotate(current: Span, **attributes: str | int | float | bool | None) -> None:
    """Add attributes to a span. Attributes that are None are left out."""
    if current.is_recording():
        current.set_attributes({f"{_PREFIX}{key}": value for key, value in attributes.items() if value is not None})

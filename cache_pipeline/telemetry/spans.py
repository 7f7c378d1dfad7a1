"""Spans of what is done; without a provider, which ``traces`` sets up, they are nothing and cost next to nothing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, ProxyTracerProvider, Span

from cache_pipeline.telemetry.correlation import correlation_id

#: Follows the process's provider, whenever that is set.
_TRACER = trace.get_tracer("cache_pipeline")
_PREFIX = "cache_pipeline."


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Generator[Span]:
    """What is done in the block, as a span below the one that is under way.

    Not to be held open over a ``yield`` of an asynchronous generator, which others may go on with elsewhere.

    Args:
        name: one of few; what varies belongs into attributes.
        attributes: no secret, and nothing of a row.
    """
    if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        yield INVALID_SPAN
        return
    with _TRACER.start_as_current_span(name) as current:
        if current.is_recording():
            current.set_attributes({f"{_PREFIX}{key}": value for key, value in attributes.items()})
            if name_of_all := correlation_id():
                current.set_attribute(f"{_PREFIX}correlation_id", name_of_all)
        yield current


def annotate(current: Span, **attributes: str | int | float | bool | None) -> None:
    """Add what was learned to a span; None is left out."""
    if current.is_recording():
        current.set_attributes({f"{_PREFIX}{key}": value for key, value in attributes.items() if value is not None})

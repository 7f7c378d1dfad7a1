"""A fixture that records every span of the test process."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cache_pipeline.telemetry import spans


@pytest.fixture
def finished_spans():
    """Return a function that lists every finished span, recorded by a provider of this test only."""
    before = trace._TRACER_PROVIDER
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace._TRACER_PROVIDER = provider
    patched = pytest.MonkeyPatch()
    patched.setattr(spans, "_TRACER", provider.get_tracer("cache_pipeline"))
    yield exporter.get_finished_spans
    patched.undo()
    trace._TRACER_PROVIDER = before
    provider.shutdown()

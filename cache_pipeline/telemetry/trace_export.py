"""Sends a process's spans to a collector, where the settings say so (extra ``otel``)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace

from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import Settings

_FLUSH_MILLISECONDS = 3000


@contextmanager
def export_traces(settings: Settings, process: str) -> Generator[None]:
    """Send spans while the block lasts, by OTLP over HTTP; where to is said by ``OTEL_EXPORTER_OTLP_ENDPOINT``.

    Args:
        settings: whether.
        process: what it is: ``gateway``, ``worker`` or ``dagster``.

    Raises:
        SettingsError: the extra is not installed.
    """
    if settings.traces == "off":
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"CACHE_PIPELINE_TRACES={settings.traces} needs {error.name}: install cache-pipeline[otel]"
        ) from error
    provider = trace.get_tracer_provider()
    # A process has one, and cannot change it: what comes to the same process again goes on with it.
    if not isinstance(provider, TracerProvider):
        names = {"service.name": f"cache-pipeline-{process}", "service.namespace": settings.tenant}
        provider = TracerProvider(resource=Resource.create(names))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # What is not sent yet goes out; a collector that is away holds nobody up for long.
        provider.force_flush(_FLUSH_MILLISECONDS)

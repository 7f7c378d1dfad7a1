"""Export of a process's spans to an OpenTelemetry collector, if the settings enable it (extra ``otel``)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace

from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import Settings

_FLUSH_MILLISECONDS = 3000


@contextmanager
def export_traces(settings: Settings, process: str) -> Generator[None]:
    """Export spans while the block lasts, by OTLP over HTTP to ``OTEL_EXPORTER_OTLP_ENDPOINT``.

    Args:
        settings: The settings that turn the export on or off.
        process: The name of the process: ``api``, ``worker`` or ``dagster``.

    Raises:
        SettingsError: The extra is not installed.
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
    # A process can set its provider only once, so a later block in the same process uses the first one's.
    if not isinstance(provider, TracerProvider):
        names = {"service.name": f"cache-pipeline-{process}", "service.namespace": settings.tenant}
        provider = TracerProvider(resource=Resource.create(names))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # Send what is pending. The timeout limits the wait for a collector that is down.
        provider.force_flush(_FLUSH_MILLISECONDS)

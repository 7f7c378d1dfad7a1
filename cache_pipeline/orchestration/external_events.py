"""Dagster events for what workers of the API write to history, so that the UI shows what dashboards caused to be fetched.

The API does not import Dagster: the command line, which starts the workers, passes in the hook made here.
See https://docs.dagster.io/guides/build/assets/external-assets
"""

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import dagster as dg

from cache_pipeline.bootstrap.reports import configured_days
from cache_pipeline.fetch.write_events import OnStored, RowsStored
from cache_pipeline.orchestration.naming import asset_key
from cache_pipeline.orchestration.partitions import partitions_overlapping, report_partitions
from cache_pipeline.query.interval import IntervalSet, format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import Settings
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.postgres.history import open_history

logger = logging.getLogger(__name__)


@contextmanager
def record_external_events(settings: Settings) -> Generator[OnStored]:
    """Yield a worker's hook that records events in the instance of DAGSTER_HOME.

    The instance is opened by the first event: with its storage it takes 40 MB, and a worker must start without it.
    """
    with ExitStack() as stack, open_history(settings.required_postgres_url()) as history:
        opening = threading.Lock()

        @cache
        def open_once() -> dg.DagsterInstance:
            return stack.enter_context(dg.DagsterInstance.get())

        def open_instance() -> dg.DagsterInstance:
            # Writes are recorded in threads.
            with opening:
                return open_once()

        yield record_in_dagster(
            open_instance, settings, lambda report: history.coverage(Series(report, settings.tenant))
        )


def record_in_dagster(
    open_instance: Callable[[], dg.DagsterInstance], settings: Settings, coverage: Callable[[Report], Coverage]
) -> OnStored:
    """Return a hook that reports each write as a runless event of ``<report>/history``.

    A partition that history now holds completely is materialised; one that it holds in part is observed. If the
    instance cannot be reached, the event is lost; the answer never is.

    Args:
        open_instance: Returns the instance in which the events are recorded.
        settings: Defines which partitions exist.
        coverage: Returns the coverage of a report after the write.
    """

    def record(report: Report, writes: Sequence[RowsStored]) -> None:
        try:
            instance, covered = open_instance(), coverage(report)
            for event in build_events(report, settings, writes, covered.final | covered.provisional):
                instance.report_runless_asset_event(event)
        except Exception:  # the rows are stored and the answer is sent, whether Dagster's storage works or not
            logger.warning("%s: could not record the stored rows in Dagster", report.name, exc_info=True)

    return record


def build_events(
    report: Report, settings: Settings, writes: Sequence[RowsStored], covered: IntervalSet
) -> list[dg.AssetMaterialization | dg.AssetObservation]:
    """Build one event for each partition that each write overlaps."""
    partitions = report_partitions(report, configured_days(settings))
    events: list[dg.AssetMaterialization | dg.AssetObservation] = []
    for write in writes:
        metadata: dict[str, dg.RawMetadataValue] = {
            "requested by": "API",
            "interval": str(write.interval),
            "rows": write.rows,
            "calls": write.calls,
            "watermark": format_instant(write.watermark),
        }
        for key, span in partitions_overlapping(partitions, write.interval).items():
            event_type = dg.AssetMaterialization if covered.covers(span) else dg.AssetObservation
            events.append(event_type(asset_key("history", report), partition=key, metadata=metadata))
    return events

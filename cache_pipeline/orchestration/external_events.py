"""Tells Dagster of what the API's workers wrote to history, so that the UI shows what dashboards caused to be fetched.

The API knows nothing of Dagster: whoever starts its workers hands ``dagster_record`` to the engine as ``on_stored``.
See https://docs.dagster.io/guides/build/assets/external-assets
"""

import logging
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import dagster as dg

from cache_pipeline.fetch.write_events import OnStored, RowsStored, ignore_stored
from cache_pipeline.orchestration.naming import asset_key
from cache_pipeline.orchestration.partitions import keys_touching, partition_intervals, report_partitions
from cache_pipeline.query.interval import IntervalSet, format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import Settings
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.postgres.history import open_history

_logger = logging.getLogger(__name__)


@contextmanager
def record_external_events(settings: Settings) -> Generator[OnStored]:
    """The hook for a worker of the API: into the instance of DAGSTER_HOME, or no record where none is configured."""
    if not os.environ.get("DAGSTER_HOME"):
        yield ignore_stored
        return
    with dg.DagsterInstance.get() as instance, open_history(settings.required_postgres_url()) as history:
        yield dagster_record(instance, settings, lambda report: history.coverage(Series(report, settings.tenant)))


def dagster_record(
    instance: dg.DagsterInstance, settings: Settings, coverage: Callable[[Report], Coverage]
) -> OnStored:
    """A hook that reports each write as a runless event of ``history/<report>``.

    A partition that history now holds as a whole is materialised; one of which it holds a part is observed. An instance
    that cannot be reached costs the record of it and never an answer.

    Args:
        instance: where the events go.
        settings: which partitions there are.
        coverage: what history holds of a report, after the write.
    """

    def record(report: Report, kept: Sequence[RowsStored]) -> None:
        try:
            held = coverage(report)
            for event in runless_events(report, settings, kept, held.final | held.provisional):
                instance.report_runless_asset_event(event)
        except Exception:  # the answer is kept and goes out, whatever Dagster's storage has to say
            _logger.warning("Dagster was not told of what was kept of %s", report.name, exc_info=True)

    return record


def runless_events(
    report: Report, settings: Settings, kept: Sequence[RowsStored], held: IntervalSet
) -> list[dg.AssetMaterialization | dg.AssetObservation]:
    """What to tell of some writes, one event for each partition that each of them touches."""
    partitions = report_partitions(report, settings.partitions_from, settings.partitions_to)
    events: list[dg.AssetMaterialization | dg.AssetObservation] = []
    for each in kept:
        metadata: dict[str, dg.RawMetadataValue] = {
            "asked by": "API",
            "interval": str(each.interval),
            "rows": each.rows,
            "calls": each.calls,
            "watermark": format_instant(each.watermark),
        }
        for key, span in partition_intervals(partitions, keys_touching(partitions, each.interval)).items():
            kind = dg.AssetMaterialization if held.covers(span) else dg.AssetObservation
            events.append(kind(asset_key("history", report), partition=key, metadata=metadata))
    return events

"""IO managers of the three tiers: each writes what an asset returns, and loads it for downstream assets (C4).

See https://docs.dagster.io/guides/build/io-managers
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg
import pandas as pd
import pyarrow as pa

from cache_pipeline.bootstrap import load_reports, report_columns
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.partitions import partition_intervals
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.answer import Answer

REPORT_METADATA = "cache_pipeline/report"


class _TierIOManager(dg.ConfigurableIOManager):
    """Base of the three: finds the report of an asset and the intervals of a run."""

    engine: dg.ResourceDependency[EngineResource]

    def _report(self, context: dg.OutputContext | dg.InputContext) -> Report:
        metadata = context.definition_metadata or {}
        if isinstance(context, dg.InputContext):
            metadata = (context.upstream_output.definition_metadata if context.upstream_output else None) or {}
        name = str(getattr(metadata.get(REPORT_METADATA), "value", metadata.get(REPORT_METADATA, "")))
        return find_report(load_reports(self.engine.settings), name)

    def _intervals(self, context: dg.OutputContext | dg.InputContext) -> list[Interval]:
        partitions = context.asset_partitions_def
        if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
            raise dg.Failure(
                "the asset is not partitioned by time: use the partitions of its report", allow_retries=False
            )
        return list(partition_intervals(partitions, context.asset_partition_keys).values())


class HistoryIOManager(_TierIOManager):
    """Stores lists of ``FetchedPartition`` in PostgreSQL; loads the rows of the requested partitions."""

    def handle_output(self, context: dg.OutputContext, obj: Sequence[FetchedPartition]) -> None:
        """Replace the partitions' rows and extend coverage in one transaction."""
        report = self._report(context)

        async def store() -> None:
            async with self.engine.service() as service:
                await service.store(report, obj)

        asyncio.run(store())
        rows = sum(partition.rows.num_rows for partition in obj)
        context.add_output_metadata({"run total": f"{rows:,} rows", "table": f"history.{report.name}"})

    def load_input(self, context: dg.InputContext) -> Rows | pa.Table | pd.DataFrame:
        """Load the rows of the requested partitions, as the input is annotated.

        ``pa.Table`` and ``pd.DataFrame`` hold all rows, with all columns or the ``columns`` that the input's metadata
        names. Any other annotation gets ``Rows``, which keeps few of them in memory.
        """
        report = self._report(context)
        series = self.engine.tenant_series(report)
        with self.engine.history() as history:
            spans = IntervalSet(self._intervals(context))
            return _convert(context, history.rows(series, spans, report_columns(report)))


def _convert(context: dg.InputContext, rows: Rows) -> Rows | pa.Table | pd.DataFrame:
    columns = (context.definition_metadata or {}).get("columns")
    annotation = context.dagster_type.typing_type
    if annotation not in (pa.Table, pd.DataFrame):
        return rows
    table = rows.to_table().select(list(columns)) if columns else rows.to_table()
    return table.to_pandas() if annotation is pd.DataFrame else table


class HotIOManager(_TierIOManager):
    """Stores rendered answers in Redis for a few seconds; loads them as JSON bytes by interval."""

    def handle_output(self, context: dg.OutputContext, obj: Sequence[tuple[CanonicalQuery, Answer]]) -> None:
        """Store the answers in one round trip."""

        async def put() -> None:
            async with self.engine.service() as service:
                await service.hot.put(obj, service.clock())

        asyncio.run(put())
        context.add_output_metadata({"answers": len(obj), "bytes": sum(len(answer.body) for _, answer in obj)})

    def load_input(self, context: dg.InputContext) -> dict[Interval, bytes]:
        """Load the answers of the requested partitions from Redis, or from history if they have expired."""
        report, intervals = self._report(context), self._intervals(context)

        async def read() -> dict[Interval, bytes]:
            async with self.engine.service() as service:
                return {interval: (await service.answer(report, interval)).body for interval in intervals}

        return asyncio.run(read())


class EdgeIOManager(_TierIOManager):
    """Publishes rows by interval as immutable Parquet; loads them through the manifest and verifies checksums."""

    def handle_output(
        self, context: dg.OutputContext, obj: tuple[Mapping[Interval, pa.Table], datetime | None]
    ) -> None:
        """Publish the rows; unchanged days are not uploaded."""
        rows_by_interval, provisional_from = obj
        with reported_failures(), self.engine.telemetry():
            publication = self.engine.edge().publish(self._report(context), rows_by_interval, provisional_from)
        context.add_output_metadata(
            {
                "run total": f"{sum(rows.num_rows for rows in rows_by_interval.values()):,} rows",
                "snapshot": publication.snapshot,
                "files uploaded": publication.uploaded,
                "dagster/uri": self.engine.settings.edge_store_url,
            }
        )

    def load_input(self, context: dg.InputContext) -> pa.Table | pd.DataFrame:
        """Load the published rows of the requested partitions, as a ``pd.DataFrame`` if so annotated, else ``pa.Table``."""
        report, edge = self._report(context), self.engine.edge()
        spans = IntervalSet(self._intervals(context))
        table = pa.concat_tables([edge.read(report, span) for span in spans])
        found = _convert(context, Rows.from_table(table))
        return table if isinstance(found, Rows) else found

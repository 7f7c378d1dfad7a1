"""IO managers of the three tiers: each writes what an asset returns, and loads back what it wrote (C4).

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
    """What the three have in common: which report an asset is, and which intervals a run covers."""

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
            raise dg.Failure("a report's asset is partitioned by time, and this one is not", allow_retries=False)
        return list(partition_intervals(partitions, context.asset_partition_keys).values())


class HistoryIOManager(_TierIOManager):
    """Keeps ``FetchedPartition`` lists in PostgreSQL; loads the wanted partitions' as ``Rows``."""

    def handle_output(self, context: dg.OutputContext, obj: Sequence[FetchedPartition]) -> None:
        """Replace the partitions' rows and extend coverage in one transaction."""
        report = self._report(context)

        async def keep() -> None:
            async with self.engine.service() as service:
                await service.store(report, obj)

        asyncio.run(keep())
        rows = sum(partition.rows.num_rows for partition in obj)
        context.add_output_metadata({"whole run": f"{rows:,} rows", "table": f"history.{report.name}"})

    def load_input(self, context: dg.InputContext) -> Rows | pa.Table | pd.DataFrame:
        """Rows of the wanted partitions, as the input is annotated.

        ``pa.Table`` and ``pd.DataFrame`` hold them all, or those ``columns`` that the input's metadata names; anything
        else gets ``Rows``, of which few are in memory.
        """
        report = self._report(context)
        series = self.engine.tenant_series(report)
        with self.engine.history() as history:
            spans = IntervalSet(self._intervals(context))
            return _as_annotated(context, history.rows(series, spans, report_columns(report)))


def _as_annotated(context: dg.InputContext, rows: Rows) -> Rows | pa.Table | pd.DataFrame:
    wanted = (context.definition_metadata or {}).get("columns")
    kind = context.dagster_type.typing_type
    if kind not in (pa.Table, pd.DataFrame):
        return rows
    table = rows.to_table().select(list(wanted)) if wanted else rows.to_table()
    return table.to_pandas() if kind is pd.DataFrame else table


class HotIOManager(_TierIOManager):
    """Puts finished answers into Redis for a few seconds; loads them back as JSON bytes by interval."""

    def handle_output(self, context: dg.OutputContext, obj: Sequence[tuple[CanonicalQuery, Answer]]) -> None:
        """Put the answers in one round trip."""

        async def put() -> None:
            async with self.engine.service() as service:
                await service.hot.put(obj, service.clock())

        asyncio.run(put())
        context.add_output_metadata({"answers": len(obj), "bytes": sum(len(answer.body) for _, answer in obj)})

    def load_input(self, context: dg.InputContext) -> dict[Interval, bytes]:
        """The answers of the wanted partitions: from Redis, or from history where their seconds are over."""
        report, intervals = self._report(context), self._intervals(context)

        async def read() -> dict[Interval, bytes]:
            async with self.engine.service() as service:
                return {interval: (await service.answer(report, interval)).body for interval in intervals}

        return asyncio.run(read())


class EdgeIOManager(_TierIOManager):
    """Publishes rows by interval as immutable Parquet; loads them back through the manifest, checksums verified."""

    def handle_output(
        self, context: dg.OutputContext, obj: tuple[Mapping[Interval, pa.Table], datetime | None]
    ) -> None:
        """Publish; unchanged days upload nothing."""
        rows_by_interval, provisional_from = obj
        with reported_failures(), self.engine.told():
            publication = self.engine.edge().publish(self._report(context), rows_by_interval, provisional_from)
        context.add_output_metadata(
            {
                "whole run": f"{sum(rows.num_rows for rows in rows_by_interval.values()):,} rows",
                "snapshot": publication.snapshot,
                "files uploaded": publication.uploaded,
                "dagster/uri": self.engine.settings.edge_address,
            }
        )

    def load_input(self, context: dg.InputContext) -> pa.Table | pd.DataFrame:
        """Published rows of the wanted partitions, as Arrow or, where the input is so annotated, pandas."""
        report, edge = self._report(context), self.engine.edge()
        spans = IntervalSet(self._intervals(context))
        table = pa.concat_tables([edge.read(report, span) for span in spans])
        found = _as_annotated(context, Rows.from_table(table))
        return table if isinstance(found, Rows) else found

"""IO managers of the three tiers: each writes what an asset returns, and loads it for downstream assets (C4).

The declaration travels with the asset: it is read from the asset's definition, never from the folder of declarations, which
may have been edited since the run began or belong to another deployment.

See https://docs.dagster.io/guides/build/io-managers
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.lazy_imports import pa
from cache_pipeline.orchestration.partitions import partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.rows.rows import Rows

if TYPE_CHECKING:
    import pandas as pd

    from cache_pipeline.service.publish import Published

#: Metadata of an asset: the report's declaration.
REPORT_METADATA = "cache_pipeline/report"


def report_metadata(report: Report) -> dg.JsonMetadataValue:
    """Return a declaration as metadata of the report's assets."""
    return dg.MetadataValue.json(report.model_dump(mode="json"))


class _TierIOManager(dg.ConfigurableIOManager):
    """Base of the three: finds the report of an asset and the intervals of a run."""

    engine: dg.ResourceDependency[EngineResource]

    def _report(self, context: dg.OutputContext | dg.InputContext) -> Report:
        metadata = context.definition_metadata or {}
        if isinstance(context, dg.InputContext):
            metadata = (context.upstream_output.definition_metadata if context.upstream_output else None) or {}
        declaration = metadata.get(REPORT_METADATA)
        if not isinstance(declaration, dg.JsonMetadataValue):
            raise dg.Failure(
                f"{context.asset_key.to_user_string()} is no asset of a declared report: use another IO manager",
                allow_retries=False,
            )
        return Report.model_validate(declaration.value)

    async def _publish(
        self, context: dg.OutputContext, partitions: Sequence[FetchedPartition | Interval], tier: Tier
    ) -> "Published":
        # As in resources.py, imported by what needs it.
        from cache_pipeline.service.publish import publish

        async with self.engine.service() as service:
            return await publish(service, self.engine.edge, self._report(context), partitions, {tier})

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
        published = asyncio.run(self._publish(context, obj, Tier.history))
        with self.engine.history() as history:
            stored = history.count_rows(self.engine.tenant_series(self._report(context)))
        context.add_output_metadata({"run total": f"{published.rows:,} rows", "dagster/row_count": stored})

    def load_input(self, context: dg.InputContext) -> "Rows | pa.Table | pd.DataFrame":
        """Load the rows of the requested partitions, as the input is annotated.

        ``pa.Table`` and ``pd.DataFrame`` hold all rows, with all columns or the ``columns`` that the input's metadata
        names. Any other annotation gets ``Rows``, which keeps few of them in memory.
        """
        report = self._report(context)
        series = self.engine.tenant_series(report)
        with self.engine.history() as history:
            spans = IntervalSet(self._intervals(context))
            return _convert(context, history.rows(series, spans, report_columns(report)))


def _convert(context: dg.InputContext, rows: Rows) -> "Rows | pa.Table | pd.DataFrame":
    columns = (context.definition_metadata or {}).get("columns")
    # Most code locations convert nothing, and need not load it.
    import pandas as pd

    annotation = context.dagster_type.typing_type
    if annotation not in (pa.Table, pd.DataFrame):
        return rows
    table = rows.to_table().select(list(columns)) if columns else rows.to_table()
    return table.to_pandas() if annotation is pd.DataFrame else table


class HotIOManager(_TierIOManager):
    """Stores rendered answers in Redis for a few seconds; loads them as JSON bytes by interval."""

    def handle_output(self, context: dg.OutputContext, obj: Sequence[Interval]) -> None:
        """Render the answers of those intervals that history holds, and store them in one round trip."""
        published = asyncio.run(self._publish(context, obj, Tier.hot))
        context.add_output_metadata({"answers": published.answers, "bytes": published.bytes})

    def load_input(self, context: dg.InputContext) -> dict[Interval, bytes]:
        """Load the answers of the requested partitions from Redis, or from history if they have expired."""
        report, intervals = self._report(context), self._intervals(context)

        async def read() -> dict[Interval, bytes]:
            async with self.engine.service() as service:
                return {interval: (await service.answer(report, interval)).body for interval in intervals}

        return asyncio.run(read())


class EdgeIOManager(_TierIOManager):
    """Publishes intervals as immutable Parquet; loads them through the manifest and verifies checksums."""

    def handle_output(self, context: dg.OutputContext, obj: Sequence[Interval]) -> None:
        """Publish what history holds of the intervals; unchanged days are not uploaded.

        Raises:
            Failure: History lacks a part. What it holds is published, and the rest is not marked as complete.
        """
        published = asyncio.run(self._publish(context, obj, Tier.edge))
        self.engine.register_published()
        context.add_output_metadata(
            {
                "run total": f"{published.rows:,} rows",
                "dagster/uri": self.engine.settings.edge_store_url,
                **(
                    {
                        "snapshot": published.edge.snapshot,
                        "files uploaded": published.edge.uploaded,
                        "dagster/row_count": published.edge.dataset_rows,
                    }
                    if published.edge
                    else {}
                ),
            }
        )
        if published.absent:
            name = self._report(context).name
            raise dg.Failure(
                f"history lacks {len(published.absent)} parts of what {name}/edge should publish, "
                f"{next(iter(published.absent))} first: materialise {name}/staged and {name}/history before",
                allow_retries=False,
            )

    def load_input(self, context: dg.InputContext) -> "pa.Table | pd.DataFrame":
        """Load the published rows of the requested partitions, as a ``pd.DataFrame`` if so annotated, else ``pa.Table``."""
        report, edge = self._report(context), self.engine.edge()
        spans = IntervalSet(self._intervals(context))
        table = pa.concat_tables([edge.read(report, span) for span in spans])
        found = _convert(context, Rows.from_table(table))
        return table if isinstance(found, Rows) else found

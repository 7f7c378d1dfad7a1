"""Names of assets, jobs and checks, so that every module spells them alike. Run tags are in ``run_tags``."""

from __future__ import annotations

import dagster as dg

from cache_pipeline.query.report import Report, Tier

COMPLETENESS_CHECK = "completeness"
SCHEMA_CHECK = "schema"
WATERMARK_CHECK = "watermark"
DRIFT_CHECK = "drift"
TIERS_AGREE_CHECK = "tiers_agree"
OPEN_PARTITIONS_CHECK = "no_open_partitions"
#: The layer that is a copy of history elsewhere.
WAREHOUSE_LAYER = "warehouse"
#: Metadata of a failed step: a table of the partitions that failed, with the error of each.
FAILED_PARTITIONS_METADATA = "failed partitions"
#: Metadata of a failed completeness check: which retry it belongs to; 0 for a first fetch.
RETRY_ATTEMPT_METADATA = "retry attempt"


def asset_key(layer: str, report: Report) -> dg.AssetKey:
    """Return ``<report>/staged``, ``<report>/history``, ``<report>/hot``, ``<report>/edge`` or ``<report>/warehouse``.

    Dagster's graphs show only the last part, inside a box with the report's name.
    """
    return dg.AssetKey([report.name, layer])


def job_name(report: Report) -> str:
    """Return the name of the job that materialises all assets of a report."""
    return f"{report.name}_job"


def staged_op_name(report: Report) -> str:
    """Return the name of the op that fetches and stages, whose config is ``FetchConfig``."""
    return f"staged__{report.name}"


def pool_name(report: Report) -> str:
    """Return the pool whose limit bounds how many steps ask a report's vendor at once."""
    return f"{report.platform}_api"


def layers_of(report: Report) -> list[str]:
    """Return the layers of a report's assets, in the order in which they are written."""
    tiers = [str(tier) for tier in (Tier.history, Tier.hot, Tier.edge) if tier in report.publish.tiers]
    return ["staged", *tiers, *([WAREHOUSE_LAYER] if report.publish.warehouse else [])]

"""What assets, jobs and checks of a report are called."""

from __future__ import annotations

import dagster as dg

from cache_pipeline.query.report import Report, Tier

COMPLETE_CHECK = "complete"
DRIFT_CHECK = "drift"
AGREEMENT_CHECK = "tiers_agree"
LEFT_CHECK = "nothing_left"
#: On the failure of a step: a table of the partitions that it failed on, with the error of each.
FAILED_METADATA = "failed partitions"


def asset_key(layer: str, report: Report) -> dg.AssetKey:
    """``staged/<report>``, ``history/<report>``, ``hot/<report>`` or ``edge/<report>``."""
    return dg.AssetKey([layer, report.name])


def job_name(report: Report) -> str:
    """Name of the job that materialises all of a report's assets."""
    return f"{report.name}_job"


def layers_of(report: Report) -> list[str]:
    """The report's assets, in order of their writing."""
    return ["staged", *(str(tier) for tier in (Tier.history, Tier.hot, Tier.edge) if tier in report.publish.tiers)]

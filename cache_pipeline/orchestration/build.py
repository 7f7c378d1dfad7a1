"""Assembles everything that Dagster sees from the declared reports."""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.execution.build_resources import wrap_resources_for_execution

from cache_pipeline.bootstrap import load_reports
from cache_pipeline.orchestration.assets import report_assets
from cache_pipeline.orchestration.backfill_estimate import estimate_definitions
from cache_pipeline.orchestration.edge_maintenance import edge_upkeep
from cache_pipeline.orchestration.io_managers import EdgeIOManager, HistoryIOManager, HotIOManager
from cache_pipeline.orchestration.naming import asset_key, job_name, layers_of
from cache_pipeline.orchestration.open_partitions_check import inventory_sensor
from cache_pipeline.orchestration.partitions import report_partitions
from cache_pipeline.orchestration.published_checks import published_checks
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.schedules import report_automation
from cache_pipeline.orchestration.sensors import report_sensors
from cache_pipeline.orchestration.staged_checks import staged_checks
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings, read_settings

# A process for each step costs seconds; what runs side by side here are requests, on one event loop.
_EXECUTOR = dg.in_process_executor


def default_resources() -> dict[str, Any]:
    """The engine and the three IO managers; they read their settings when they run."""
    engine = EngineResource()
    return {
        "engine": engine,
        "history_io_manager": HistoryIOManager(engine=engine),
        "hot_io_manager": HotIOManager(engine=engine),
        "edge_io_manager": EdgeIOManager(engine=engine),
    }


def report_definitions(report: Report, settings: Settings, resources: Mapping[str, Any]) -> dg.Definitions:
    """Everything of one report: assets, checks, job, schedule, sensor."""
    partitions = report_partitions(report, settings.partitions_from, settings.partitions_to)
    assets = report_assets(report, partitions)
    checks = [staged_checks(report, partitions), published_checks(report, partitions)]
    job = _resolved_job(report, assets, checks, resources)
    return dg.Definitions.merge(
        dg.Definitions(assets=assets, asset_checks=checks), report_automation(report, partitions, job)
    )


def _resolved_job(
    report: Report,
    assets: Sequence[dg.AssetsDefinition],
    checks: Sequence[dg.AssetChecksDefinition],
    resources: Mapping[str, Any],
) -> dg.JobDefinition:
    """The job of all the report's assets and checks, found among these alone.

    Left to the code location, each job is looked for among the assets of all reports: a thousand took minutes. A
    ``Definitions`` of the report's own would resolve it too, at twice the cost, which is why Dagster's inner parts are
    called.
    """
    job = dg.define_asset_job(
        job_name(report),
        selection=dg.AssetSelection.assets(*(asset_key(layer, report) for layer in layers_of(report))),
        description=f"Fetch, check and publish {report.name}",
    )
    return job.resolve(
        AssetGraph.from_assets([*assets, *checks]),
        default_executor_def=_EXECUTOR,
        resource_defs=wrap_resources_for_execution(resources),
    )


@contextmanager
def _no_collection() -> Generator[None]:
    """No garbage is looked for meanwhile: definitions are millions of objects that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def build_defs(
    *,
    reports: Mapping[str, Report] | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """The whole code location.

    Args:
        reports: instead of those declared in the settings' folder.
        resource_overrides: put in place of, or beside, the default resources.

    Raises:
        SettingsError, DeclarationError: naming what to mend.
    """
    settings = read_settings()
    declared = reports if reports is not None else load_reports(settings)
    with _no_collection():
        return _built(declared, settings, {**default_resources(), **(resource_overrides or {})})


def _built(declared: Mapping[str, Report], settings: Settings, resources: Mapping[str, Any]) -> dg.Definitions:
    of_reports = [report_definitions(report, settings, resources) for report in declared.values()]
    known = {
        name: (report, report_partitions(report, settings.partitions_from, settings.partitions_to))
        for name, report in declared.items()
    }
    return dg.Definitions.merge(
        *of_reports,
        edge_upkeep(declared),
        estimate_definitions(declared),
        dg.Definitions(
            sensors=[
                *report_sensors(known, [job for each in of_reports for job in each.jobs or []]),
                inventory_sensor(known),
            ],
            resources=resources,
            executor=_EXECUTOR,
        ),
    )

"""Assembly of the whole code location from the declared reports: assets, checks, jobs, schedules, sensors, resources.

Each kind of definition is made in its own module; only the jobs of reports are made here.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.execution.build_resources import wrap_resources_for_execution

from cache_pipeline.bootstrap.reports import configured_days, load_declarations
from cache_pipeline.orchestration.assets import report_assets
from cache_pipeline.orchestration.backfill_estimate import estimate_definitions
from cache_pipeline.orchestration.dagster_compat import over_named_jobs
from cache_pipeline.orchestration.edge_maintenance import edge_maintenance
from cache_pipeline.orchestration.io_managers import EdgeIOManager, HistoryIOManager, HotIOManager
from cache_pipeline.orchestration.names import name_definitions
from cache_pipeline.orchestration.naming import asset_key, job_name, layers_of
from cache_pipeline.orchestration.open_partitions_check import open_partitions_sensor
from cache_pipeline.orchestration.partitions import report_partitions
from cache_pipeline.orchestration.published_checks import published_checks
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.schedules import report_schedule
from cache_pipeline.orchestration.sensors import report_sensors, shared_sensors
from cache_pipeline.orchestration.shared_state import SharedState
from cache_pipeline.orchestration.staged_checks import staged_checks
from cache_pipeline.orchestration.vendor_deletions import vendor_deletion_definitions
from cache_pipeline.query.declarations import Declaration
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings, read_settings

# A process for each step would cost seconds. Concurrency here means requests on one event loop, not processes.
_EXECUTOR = dg.in_process_executor


@cache
def default_resources() -> Mapping[str, Any]:
    """Return the engine and the three IO managers; they read their settings when they run.

    Their keys have a prefix, because a project may have an ``engine`` of its own. They are the same objects for every caller,
    because Dagster merges definitions only if resources of one key are identical.
    """
    engine = EngineResource()
    return {
        "cache_pipeline__engine": engine,
        "cache_pipeline__history_io_manager": HistoryIOManager(engine=engine),
        "cache_pipeline__hot_io_manager": HotIOManager(engine=engine),
        "cache_pipeline__edge_io_manager": EdgeIOManager(engine=engine),
    }


def _report_definitions(
    report: Report,
    declaration: Declaration | None,
    settings: Settings,
    resources: Mapping[str, Any],
    shared: SharedState,
) -> dg.Definitions:
    """Return the definitions of one report: assets, checks, job, schedule and sensors."""
    partitions = report_partitions(report, configured_days(settings))
    assets = report_assets(report, partitions, declaration, settings.tenant)
    checks = [staged_checks(report, partitions), published_checks(report, partitions)]
    job = _resolved_job(report, assets, checks, resources)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[job],
        schedules=[report_schedule(report, partitions, job)],
        sensors=report_sensors(report, partitions, job, shared, _sensor_status(settings)),
    )


def _sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Return whether sensors run until a user switches them in the UI."""
    return dg.DefaultSensorStatus.RUNNING if settings.sensors == "running" else dg.DefaultSensorStatus.STOPPED


def _resolved_job(
    report: Report,
    assets: Sequence[dg.AssetsDefinition],
    checks: Sequence[dg.AssetChecksDefinition],
    resources: Mapping[str, Any],
) -> dg.JobDefinition:
    """Return the job of a report's assets and checks, resolved against these alone.

    The code location would resolve each job against the assets of all reports, which takes minutes for a thousand of
    them. A ``Definitions`` object for each report would work too, at twice the cost; hence the calls of Dagster's
    internals.
    """
    job = dg.define_asset_job(
        job_name(report),
        selection=dg.AssetSelection.assets(*(asset_key(layer, report) for layer in layers_of(report))),
        description=f"Fetches, checks and publishes {report.name}",
    )
    return job.resolve(
        AssetGraph.from_assets([*assets, *checks]),
        default_executor_def=_EXECUTOR,
        resource_defs=wrap_resources_for_execution(resources),
    )


@contextmanager
def _garbage_collection_disabled() -> Generator[None]:
    """Disable garbage collection for the block: definitions are millions of objects, and all of them stay alive."""
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
    """Build the whole code location of this project.

    Args:
        reports: Reports by name, instead of those declared in the settings' folder.
        resource_overrides: Resources that replace or extend the default ones.

    Raises:
        SettingsError: A setting is invalid.
        DeclarationError: A declaration is invalid.
    """
    settings = read_settings()
    declarations = load_declarations(settings) if reports is None else {}
    declared = reports if reports is not None else {name: each.report for name, each in declarations.items()}
    return dg.Definitions.merge(
        build_folder_defs(declared, resource_overrides, declarations),
        build_upkeep_defs(declared, resource_overrides),
        dg.Definitions(executor=_EXECUTOR),
    )


def build_folder_defs(
    reports: Mapping[str, Report],
    resource_overrides: Mapping[str, Any] | None = None,
    declarations: Mapping[str, Declaration] | None = None,
) -> dg.Definitions:
    """Build what belongs to single reports: assets, checks, jobs, schedules and sensors.

    The result may be merged with others of its kind and with any project's own definitions.

    Args:
        reports: Reports by name.
        resource_overrides: As in ``build_defs``.
        declarations: Where the reports are declared, for links to their lines.

    Raises:
        SettingsError: A setting is invalid.
    """
    settings, resources = read_settings(), {**default_resources(), **(resource_overrides or {})}
    shared, places = SharedState(reports.values()), declarations or {}
    with _garbage_collection_disabled():
        return dg.Definitions.merge(
            *(
                _report_definitions(report, places.get(name), settings, resources, shared)
                for name, report in reports.items()
            ),
            dg.Definitions(resources=resources),
        )


def build_upkeep_defs(
    reports: Mapping[str, Report], resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Build what a deployment has once: sensors over all reports, the estimate of backfills, names, and edge maintenance.

    Args:
        reports: All reports of the deployment, by name.
        resource_overrides: As in ``build_defs``.

    Raises:
        SettingsError: A setting is invalid.
    """
    settings, resources = read_settings(), {**default_resources(), **(resource_overrides or {})}
    with_partitions = {
        name: (report, report_partitions(report, configured_days(settings))) for name, report in reports.items()
    }
    jobs = [job_name(report) for report in reports.values()]
    launching = [
        over_named_jobs(sensor, jobs) for sensor in shared_sensors(with_partitions, (), _sensor_status(settings))
    ]
    return dg.Definitions.merge(
        edge_maintenance(reports),
        estimate_definitions(reports),
        name_definitions(reports),
        vendor_deletion_definitions(settings, reports),
        dg.Definitions(sensors=[*launching, open_partitions_sensor(with_partitions)], resources=resources),
    )

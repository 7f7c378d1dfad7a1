"""Maintenance of the edge tier: a daily job, its schedule, and a sensor that reads the public URL through the CDN.

See https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Iterable, Mapping

import dagster as dg

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.bootstrap.stores import open_stored_names
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.query.report import Report, Tier

MAINTENANCE_JOB = "edge_maintenance_job"
READBACK_SENSOR = "edge_readback_sensor"
#: After the days of most time zones are final, and before people in Europe start work.
_DAILY_CRON = "30 3 * * *"


def edge_maintenance(reports: Mapping[str, Report]) -> dg.Definitions:
    """Return the job, schedule and sensor, or nothing if no report has the edge tier."""
    published = [report for report in reports.values() if Tier.edge in report.publish.tiers]
    if not published:
        return dg.Definitions()

    @dg.op(description="Republish recent days, which the vendor may have corrected, and the page; delete unused files")
    def refresh_edge(context: dg.OpExecutionContext, cache_pipeline__engine: EngineResource) -> None:
        with reported_failures():
            for name, value in _refresh_edge(cache_pipeline__engine, published, reports):
                context.log.info("%s: %s", name, value)

    @dg.job(
        name=MAINTENANCE_JOB, description="Publish the last 35 days from history and the page, then delete unused files"
    )
    def job() -> None:
        refresh_edge()

    @dg.sensor(
        name=READBACK_SENSOR,
        minimum_interval_seconds=300,
        description="Reads CACHE_PIPELINE_EDGE_PUBLIC_URL, and fails while readers get another snapshot than the published one",
    )
    def readback(cache_pipeline__engine: EngineResource) -> dg.SkipReason:
        # As in resources.py, imported by what needs it.
        from cache_pipeline.storage.published.readback import read_back, require_public_url

        with reported_failures():
            result = read_back(
                cache_pipeline__engine.edge(),
                require_public_url(cache_pipeline__engine.settings.edge_public_url),
                utc_now(),
            )
        if result.problem:
            raise dg.Failure(result.problem)
        served = (
            "readers get"
            if result.is_current
            else f"readers still get {result.served}, for minutes at most, instead of"
        )
        return dg.SkipReason(f"{served} snapshot {result.published} of {result.published_at:%Y-%m-%d %H:%M} UTC")

    schedule = dg.ScheduleDefinition(
        name="edge_maintenance_schedule",
        job=job,
        cron_schedule=_DAILY_CRON,
        execution_timezone="UTC",
        description="Maintains the edge tier once a day",
    )
    return dg.Definitions(jobs=[job], schedules=[schedule], sensors=[readback])


def _refresh_edge(
    engine: EngineResource, published: Iterable[Report], reports: Mapping[str, Report]
) -> Iterable[tuple[str, str]]:
    from cache_pipeline.service.names import published_names
    from cache_pipeline.service.republish import republish, trailing_window
    from cache_pipeline.storage.published.maintenance import collect_garbage
    from cache_pipeline.storage.published.page import publish_page

    edge, now = engine.edge(), utc_now()
    with engine.history() as history:
        for report in published:
            columns = report_columns(report)
            result = republish(history, edge, engine.tenant_series(report), columns, trailing_window(report, now))
            yield report.name, f"{result.rows} rows in {result.files} files, {result.uploaded} uploaded"
    with open_stored_names(engine.settings) as stored:
        names = published_names(edge, reports, stored)
    yield "page", f"{publish_page(edge.store, names)} objects uploaded"
    deleted = collect_garbage(edge)
    yield "garbage", f"{len(deleted.files)} files and {len(deleted.snapshots)} snapshots deleted"
    engine.register_published()

"""The edge tier's daily upkeep, and a sensor that reads the public URL back through the CDN.

See https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Iterable, Mapping

import dagster as dg

from cache_pipeline.bootstrap import report_columns, utc_now
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.service.republish import republish, trailing_window
from cache_pipeline.storage.published.maintenance import collect_garbage
from cache_pipeline.storage.published.page import publish_page, read_labels
from cache_pipeline.storage.published.readback import read_back, require_public_url

UPKEEP_JOB = "edge_upkeep_job"
READBACK_SENSOR = "edge_readback_sensor"
#: After the days of most zones have ended and settled, and before people start to work in Europe.
_DAILY = "30 3 * * *"


def edge_upkeep(reports: Mapping[str, Report]) -> dg.Definitions:
    """The upkeep's job and schedule and the read-back sensor; nothing where no report has the edge tier."""
    published = [report for report in reports.values() if Tier.edge in report.publish.tiers]
    if not published:
        return dg.Definitions()

    @dg.op(
        description="The page, and of each report what the vendor may have restated; then what nobody needs is deleted"
    )
    def refresh_edge(context: dg.OpExecutionContext, engine: EngineResource) -> None:
        with reported_failures():
            for name, value in _refreshed(engine, published):
                context.log.info("%s: %s", name, value)

    @dg.job(name=UPKEEP_JOB, description="Publish the page and the last 35 days from history, and collect garbage")
    def job() -> None:
        refresh_edge()

    @dg.sensor(
        name=READBACK_SENSOR,
        minimum_interval_seconds=300,
        description="Reads CACHE_PIPELINE_EDGE_PUBLIC_URL back, and fails while readers get another snapshot than was published",
    )
    def readback(engine: EngineResource) -> dg.SkipReason:
        with reported_failures():
            found = read_back(engine.edge(), require_public_url(engine.settings.edge_public_url), utc_now())
        if found.problem:
            raise dg.Failure(found.problem)
        served = "readers get" if found.agrees else f"readers still get {found.served}, for minutes at most, and not"
        return dg.SkipReason(f"{served} snapshot {found.published} of {found.published_at:%Y-%m-%d %H:%M} UTC")

    schedule = dg.ScheduleDefinition(
        name="edge_upkeep_schedule", job=job, cron_schedule=_DAILY, execution_timezone="UTC", description="Once a day"
    )
    return dg.Definitions(jobs=[job], schedules=[schedule], sensors=[readback])


def _refreshed(engine: EngineResource, published: Iterable[Report]) -> Iterable[tuple[str, str]]:
    settings, edge, now = engine.settings, engine.edge(), utc_now()
    with engine.history() as history:
        for report in published:
            columns = report_columns(report)
            done = republish(history, edge, engine.tenant_series(report), columns, trailing_window(report, now))
            yield report.name, f"{done.rows} rows in {done.files} files, {done.uploaded} uploaded"
    labels = read_labels(settings.edge_labels) if settings.edge_labels else None
    yield "page", f"{publish_page(edge.store, labels)} objects put"
    collected = collect_garbage(edge)
    yield "garbage", f"{len(collected.files)} files and {len(collected.snapshots)} snapshots deleted"

"""Tests that every alert fires when its cause occurs, and that every Grafana panel shows data."""

import asyncio
import json
import re
import runpy
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import Series
from cache_pipeline.service.republish import republish
from cache_pipeline.settings import Settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.deploy.monitored_system import interval, wait_for, watched_deployment, working_days
from cache_pipeline_tests.deploy.rules import REPOSITORY, alerts

pytestmark = [pytest.mark.timeout(240), pytest.mark.serial]

DASHBOARD = REPOSITORY / "deploy" / "grafana" / "cache_pipeline.json"
DAYS = working_days(7)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with watched_deployment(tmp_path_factory.mktemp("watched")) as found:
        yield found


def deployment_settings(deployment):
    return Settings(
        postgres_url=SecretStr(deployment.servers.postgres_url),
        redis_url=SecretStr(deployment.servers.redis_url),
        edge_url=deployment.edge_url,
        reports_dir=deployment.folder / "reports",
    )


def delay_publishing(deployment):
    """Publish the first day; fetch two later days without publishing them."""
    settings = deployment_settings(deployment)
    report = load_reports(settings)["queue_hour"]
    with open_history(deployment.servers.postgres_url) as history:
        day = Interval.parse(interval(DAYS[0], 24))
        republish(history, open_edge_tier(settings), Series(report, settings.tenant), report_columns(report), day)
    for day in DAYS[1:4]:
        assert deployment.ask("queue_hour", interval(day, 24)).status_code == 200


def let_provisional_figures_age(deployment):
    """Query a report with a freshness of one second only once."""
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    answer = deployment.ask("queue_now", interval(today - timedelta(hours=3), 4))
    assert answer.status_code == 200, answer.text
    assert "provisional-from" in answer.headers


def lose_partitions(deployment):
    """Remove a day of last week from what history holds of a report."""
    deployment.sql(
        "UPDATE cache_pipeline_state.coverage"
        " SET final = final - tstzmultirange(tstzrange(now() - interval '4 days', now() - interval '3 days'))"
        " WHERE report = 'answered_hour'"
    )


def stop_new_figures(deployment):
    """Move the stored watermark back by ten days."""
    deployment.sql(
        "UPDATE cache_pipeline_state.coverage SET watermark = watermark - interval '10 days' WHERE report = 'queue_now'"
    )


def truncate_vendor_answers(deployment):
    deployment.faults(max_rows=3)
    answer = deployment.ask("queue_hour", interval(DAYS[4] + timedelta(hours=8), 4))
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:cache-pipeline:problem:incomplete-answer")
    deployment.faults()


def use_wrong_secret(deployment):
    """Send six queries to the other vendor, whose only OAuth client has a wrong secret."""
    for hour in range(6):
        answer = deployment.ask("calls_hour", interval(DAYS[0] + timedelta(hours=hour), 1))
        assert answer.status_code == 502, answer.text


def repeat_failing_query(deployment):
    for _ in range(5):
        assert deployment.ask("calls_hour", interval(DAYS[0], 1)).status_code == 502
        time.sleep(1)


def publish_foreign_message(deployment):
    async def publish():
        async with open_queue(deployment_settings(deployment)) as queue:
            await queue.publish("not a job")

    asyncio.run(publish())


def slow_down_redis(deployment):
    """Delay three answers from Redis by half a second each."""
    asked = interval(DAYS[0], 24)
    with deployment.redis() as client:
        for _ in range(3):
            deployment.http.get("/v1/reports/queue_hour", params={"interval": asked})
            client.client_pause(500)
            assert deployment.http.get("/v1/reports/queue_hour", params={"interval": asked}).status_code == 200


def break_vendor(deployment):
    """Let the vendor answer the next queries with 500; a submit that fails this way is not repeated."""
    deployment.faults(server_errors=40, server_error_status=500)
    for hour in range(16):
        assert deployment.ask("queue_hour", interval(DAYS[6] + timedelta(hours=hour), 1)).status_code == 502
    deployment.faults()


def throttle_client(deployment):
    """Let the vendor answer 429 with a Retry-After of three minutes; the caller waits."""
    deployment.faults(throttle=1, throttle_seconds=180)
    assert deployment.ask("queue_hour", interval(DAYS[5] + timedelta(hours=1), 1), wait=1).status_code == 202


def corrupt_manifest(deployment):
    """Overwrite the manifest; the lag that was read before is still reported."""
    (manifest,) = (deployment.folder / "edge").rglob("manifest.json")
    manifest.write_text("not a manifest")


def kill_worker(deployment):
    deployment.worker.kill()


def pile_up_jobs(deployment):
    for hour in range(21):
        assert deployment.ask("queue_hour", interval(DAYS[5] + timedelta(hours=hour + 2), 1), wait=0).status_code == 202
        time.sleep(0.05)


def age_queued_jobs(deployment):
    """Move the queued jobs back by ten minutes."""
    deployment.sql(
        "UPDATE cache_pipeline_state.job SET created_at = created_at - interval '10 minutes',"
        " not_before = not_before - interval '10 minutes' WHERE state = 'queued'"
    )


#: The causes of each alert, in an order in which later causes may break what earlier ones need.
CAUSES_WITH_WORKER = {
    delay_publishing: ["EdgeBehind"],
    let_provisional_figures_age: ["ReportStale"],
    lose_partitions: ["ReportMissing"],
    stop_new_figures: ["ReportBehind"],
    truncate_vendor_answers: ["ReportIncomplete"],
    use_wrong_secret: ["LoginRefused", "JobsFailing"],
    repeat_failing_query: ["Errors"],
    publish_foreign_message: ["JobsDeadLettered"],
    slow_down_redis: ["AnswersSlow"],
    break_vendor: ["VendorFailing"],
    corrupt_manifest: ["EdgeUnreachable"],
    throttle_client: ["RateLimited", "Throttled", "QuotaExhausted"],
}
CAUSES_WITHOUT_WORKER = {
    kill_worker: ["NoWorker", "WorkerLost"],
    pile_up_jobs: ["QueueGrowing"],
    age_queued_jobs: ["JobsWaiting"],
}
STORES = ["RedisUnreachable", "QueueUnreachable", "PostgreSQLUnreachable"]


def trigger(watched, causes):
    """Trigger the causes one after another, and wait until every alert fires."""
    deployment, prometheus = watched
    for cause in causes:
        cause(deployment)
    wait_for_alerts(prometheus, [alert for each in causes.values() for alert in each])


def wait_for_alerts(prometheus, names):
    wanted = {f"CachePipeline{name}" for name in names}
    found = wait_for(
        lambda: found if wanted <= set(found := prometheus.alerts()) else None,
        40,
        lambda: f"these alerts do not fire: {wanted - set(prometheus.alerts())}",
    )
    for name in wanted:
        assert "<no value>" not in found[name]["annotations"]["summary"]


def test_every_alert_has_cause():
    listed = [
        alert for causes in (CAUSES_WITH_WORKER, CAUSES_WITHOUT_WORKER) for each in causes.values() for alert in each
    ]
    assert sorted(f"CachePipeline{name}" for name in [*listed, *STORES, "ApiDown"]) == sorted(alerts())


def test_healthy_system_raises_no_alert(watched):
    deployment, prometheus = watched
    assert deployment.ask("queue_hour", interval(DAYS[0], 24)).status_code == 200
    for _ in range(20):
        assert deployment.ask("queue_hour", interval(DAYS[0], 24)).status_code == 200
    wait_for(lambda: prometheus.query('cache_pipeline_report_age_seconds{report="queue_hour"}'))
    time.sleep(1)
    assert prometheus.alerts() == {}


def test_one_id_and_trace_lead_from_api_to_vendor(watched):
    deployment, _ = watched
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    answer = deployment.ask("queue_hour", interval(DAYS[5], 1), traceparent=parent)
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (200, trace)
    lines = [
        json.loads(line)
        for name in ("api", "worker")
        for line in (deployment.folder / f"{name}.log").read_text().splitlines()
        if line.startswith("{")
    ]
    ours = [line for line in lines if line["correlation_id"] == trace]
    assert {line["process"] for line in ours} == {"api", "worker"}
    assert all(line["vendor_correlation_id"] for line in ours if "account" in line)

    def arrived():
        found = {each.span: each for each in deployment.collector.spans if each.trace == trace}
        has_names = {"job", "upstream call", "store history", "store hot"} <= {each.name for each in found.values()}
        # The API's own span ends last, after the answer has been sent.
        has_parents = all(each.parent in (*found, parent.split("-")[2]) for each in found.values())
        return found if has_names and has_parents else None

    spans = wait_for(arrived, describe=lambda: deployment.collector.spans)
    assert {each.service for each in spans.values()} == {"cache-pipeline-api", "cache-pipeline-worker"}
    (job,) = [each for each in spans.values() if each.name == "job"]
    assert (job.service, spans[job.parent].service) == ("cache-pipeline-worker", "cache-pipeline-api")


def test_alerts_fire_while_all_processes_run(watched):
    trigger(watched, CAUSES_WITH_WORKER)


def test_every_dashboard_panel_shows_data(watched):
    _, prometheus = watched
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    assert len(panels) > 15
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "2m")
            assert "$" not in expression
            found = prometheus.query(expression)
            assert found, (panel["title"], expression)
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert all(label in series["metric"] for series in found), (panel["title"], label)


def test_dashboard_matches_its_script():
    assert runpy.run_path(str(REPOSITORY / "deploy" / "grafana" / "dashboard.py"))["build"]() == DASHBOARD.read_text()


def test_alerts_fire_after_worker_is_killed(watched):
    trigger(watched, CAUSES_WITHOUT_WORKER)


def test_alerts_fire_after_stores_are_killed(watched):
    deployment, prometheus = watched
    prometheus.scrape_rarely()
    deployment.kill_redis()
    deployment.kill_postgresql()
    wait_for_alerts(prometheus, STORES)


def test_alert_fires_after_api_is_killed(watched):
    deployment, prometheus = watched
    deployment.api.kill()
    wait_for_alerts(prometheus, ["ApiDown"])

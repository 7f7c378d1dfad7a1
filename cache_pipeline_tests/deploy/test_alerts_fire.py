"""Every alert fires when what it tells of is really brought about, and every panel of the dashboard shows something."""

import asyncio
import json
import re
import runpy
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.bootstrap import edge_tier, load_reports, report_columns
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


def settings_of(deployment):
    return Settings(
        postgres_url=SecretStr(deployment.servers.postgres_url),
        redis_url=SecretStr(deployment.servers.redis_url),
        edge_url=deployment.edge_url,
        reports_dir=deployment.folder / "reports",
    )


def the_edge_falls_behind(deployment):
    """The first day is published; two later ones are fetched and are not."""
    settings = settings_of(deployment)
    report = load_reports(settings)["queue_hour"]
    with open_history(deployment.servers.postgres_url) as history:
        day = Interval.parse(interval(DAYS[0], 24))
        republish(history, edge_tier(settings), Series(report, settings.tenant), report_columns(report), day)
    for day in DAYS[1:4]:
        assert deployment.ask("queue_hour", interval(day, 24)).status_code == 200


def provisional_figures_grow_old(deployment):
    """A report that lets them grow a second old is asked once, and then never again."""
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    answer = deployment.ask("queue_now", interval(today - timedelta(hours=3), 4))
    assert answer.status_code == 200, answer.text
    assert "provisional-from" in answer.headers


def no_newer_figures_come(deployment):
    """Ten days pass, as far as the row can tell."""
    deployment.sql(
        "UPDATE cache_pipeline_state.coverage SET watermark = watermark - interval '10 days' WHERE report = 'queue_now'"
    )


def the_vendor_cuts_its_answers(deployment):
    deployment.faults(max_rows=3)
    answer = deployment.ask("queue_hour", interval(DAYS[4] + timedelta(hours=8), 4))
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:cache-pipeline:problem:incomplete-answer")
    deployment.faults()


def the_secret_is_wrong(deployment):
    """Of the other vendor's only OAuth client: six questions in vain."""
    for hour in range(6):
        answer = deployment.ask("calls_hour", interval(DAYS[0] + timedelta(hours=hour), 1))
        assert answer.status_code == 502, answer.text


def failures_are_asked_for_again(deployment):
    for _ in range(5):
        assert deployment.ask("calls_hour", interval(DAYS[0], 1)).status_code == 502
        time.sleep(1)


def a_stranger_uses_the_queue(deployment):
    async def publish():
        async with open_queue(settings_of(deployment)) as queue:
            await queue.publish("not a job")

    asyncio.run(publish())


def redis_answers_late(deployment):
    """Three answers out of Redis that are held up for half a second each."""
    asked = interval(DAYS[0], 24)
    with deployment.redis() as client:
        for _ in range(3):
            deployment.http.get("/v1/reports/queue_hour", params={"interval": asked})
            client.client_pause(500)
            assert deployment.http.get("/v1/reports/queue_hour", params={"interval": asked}).status_code == 200


def the_vendor_breaks_down(deployment):
    """It answers the next questions with 500; a submit that fails so is not sent again."""
    deployment.faults(server_errors=40, server_error_status=500)
    for hour in range(16):
        assert deployment.ask("queue_hour", interval(DAYS[6] + timedelta(hours=hour), 1)).status_code == 502
    deployment.faults()


def the_vendor_throttles(deployment):
    """Its next answer is a 429 that says to come back in three minutes; whoever asks waits."""
    deployment.faults(throttle=1, throttle_seconds=180)
    assert deployment.ask("queue_hour", interval(DAYS[5] + timedelta(hours=1), 1), wait=1).status_code == 202


def the_edge_store_holds_no_manifest(deployment):
    """Somebody has written something else there; what fell behind before is told of all the same."""
    (manifest,) = (deployment.folder / "edge").rglob("manifest.json")
    manifest.write_text("not a manifest")


def the_worker_is_killed(deployment):
    deployment.worker.kill()


def questions_pile_up(deployment):
    for hour in range(21):
        assert deployment.ask("queue_hour", interval(DAYS[5] + timedelta(hours=hour + 2), 1), wait=0).status_code == 202
        time.sleep(0.05)


def nobody_takes_them(deployment):
    """Ten minutes pass, as far as the rows can tell."""
    deployment.sql(
        "UPDATE cache_pipeline_state.job SET created_at = created_at - interval '10 minutes',"
        " not_before = not_before - interval '10 minutes' WHERE state = 'queued'"
    )


#: What brings each alert about, in an order in which the later ones may break what the earlier ones need.
WHILE_IT_RUNS = {
    the_edge_falls_behind: ["EdgeBehind"],
    provisional_figures_grow_old: ["ReportStale"],
    no_newer_figures_come: ["ReportBehind"],
    the_vendor_cuts_its_answers: ["ReportIncomplete"],
    the_secret_is_wrong: ["LoginRefused", "JobsFailing"],
    failures_are_asked_for_again: ["Errors"],
    a_stranger_uses_the_queue: ["JobsDeadLettered"],
    redis_answers_late: ["AnswersSlow"],
    the_vendor_breaks_down: ["VendorFailing"],
    the_edge_store_holds_no_manifest: ["EdgeUnreachable"],
    the_vendor_throttles: ["RateLimited", "Throttled", "QuotaExhausted"],
}
WITHOUT_A_WORKER = {
    the_worker_is_killed: ["NoWorker", "WorkerLost"],
    questions_pile_up: ["QueueGrowing"],
    nobody_takes_them: ["JobsWaiting"],
}
STORES = ["RedisUnreachable", "QueueUnreachable", "PostgreSQLUnreachable"]


def bring_about(watched, causes):
    """Cause all of it, one after another, and wait until every alert fires."""
    deployment, prometheus = watched
    for cause in causes:
        cause(deployment)
    awaited(prometheus, [alert for each in causes.values() for alert in each])


def awaited(prometheus, names):
    wanted = {f"CachePipeline{name}" for name in names}
    found = wait_for(
        lambda: found if wanted <= set(found := prometheus.alerts()) else None,
        40,
        lambda: f"these do not fire: {wanted - set(prometheus.alerts())}",
    )
    for name in wanted:
        assert "<no value>" not in found[name]["annotations"]["summary"]


def test_every_alert_is_brought_about_here():
    listed = [alert for causes in (WHILE_IT_RUNS, WITHOUT_A_WORKER) for each in causes.values() for alert in each]
    assert sorted(f"CachePipeline{name}" for name in [*listed, *STORES, "ApiDown"]) == sorted(alerts())


def test_no_alert_fires_while_all_is_well(watched):
    deployment, prometheus = watched
    assert deployment.ask("queue_hour", interval(DAYS[0], 24)).status_code == 200
    for _ in range(20):
        assert deployment.ask("queue_hour", interval(DAYS[0], 24)).status_code == 200
    wait_for(lambda: prometheus.query('cache_pipeline_report_age_seconds{report="queue_hour"}'))
    time.sleep(1)
    assert prometheus.alerts() == {}


def test_one_id_and_one_trace_lead_from_the_gateways_process_through_the_workers_to_the_vendor(watched):
    deployment, _ = watched
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    answer = deployment.ask("queue_hour", interval(DAYS[5], 1), traceparent=parent)
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (200, trace)
    lines = [
        json.loads(line)
        for name in ("gateway", "worker")
        for line in (deployment.folder / f"{name}.log").read_text().splitlines()
        if line.startswith("{")
    ]
    ours = [line for line in lines if line["correlation_id"] == trace]
    assert {line["process"] for line in ours} == {"api", "worker"}
    assert all(line["vendor_correlation_id"] for line in ours if "platform" in line)

    def arrived():
        found = {each.span: each for each in deployment.collector.spans if each.trace == trace}
        told = {"job", "upstream call", "store history", "store hot"} <= {each.name for each in found.values()}
        # The gateway's own end last, when the answer has gone out.
        whole = all(each.parent in (*found, parent.split("-")[2]) for each in found.values())
        return found if told and whole else None

    spans = wait_for(arrived, told=lambda: deployment.collector.spans)
    assert {each.service for each in spans.values()} == {"cache-pipeline-api", "cache-pipeline-worker"}
    (job,) = [each for each in spans.values() if each.name == "job"]
    assert (job.service, spans[job.parent].service) == ("cache-pipeline-worker", "cache-pipeline-api")


def test_alerts_tell_of_what_goes_wrong_while_all_processes_run(watched):
    bring_about(watched, WHILE_IT_RUNS)


def test_every_panel_of_the_dashboard_shows_something(watched):
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


def test_the_dashboard_is_what_its_script_makes():
    assert runpy.run_path(str(REPOSITORY / "deploy" / "grafana" / "dashboard.py"))["build"]() == DASHBOARD.read_text()


def test_alerts_tell_of_a_worker_that_is_killed_and_of_what_waits_for_it(watched):
    bring_about(watched, WITHOUT_A_WORKER)


def test_alerts_tell_of_stores_that_are_killed(watched):
    deployment, prometheus = watched
    prometheus.be_patient()
    deployment.kill_redis()
    deployment.kill_postgresql()
    awaited(prometheus, STORES)


def test_an_alert_tells_of_a_gateway_that_is_killed(watched):
    deployment, prometheus = watched
    deployment.gateway.kill()
    awaited(prometheus, ["ApiDown"])

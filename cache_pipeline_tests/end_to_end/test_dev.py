"""Tests of `cache-pipeline dev`: the Dagster UI after the demo, a partition materialised in it, and Ctrl-C."""

import socket
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from cache_pipeline_tests.end_to_end.conftest import wait_until_no_processes

pytestmark = [pytest.mark.timeout(300), pytest.mark.system]

LAUNCH_RUN = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
ASSETS = "{ assetNodes { assetKey { path } groupName dependencyKeys { path } assetChecksOrError { ... on AssetChecks { checks { name blocking } } } } }"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_query(client, query, **variables):
    answer = client.post("/graphql", json={"query": query, "variables": variables}).json()
    assert "errors" not in answer, answer
    return answer["data"]


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


def test_dev_ui_shows_assets_and_materialises_a_partition(project, production_settings, command_line):
    (project / "reports" / "queue_interval.yaml").unlink()
    today = datetime.now(UTC).date()
    port, api_port = free_port(), free_port()
    days = ("--from", str(today - timedelta(days=2)), "--to", str(today))
    dev = command_line("dev", "--port", str(port), "--api-port", str(api_port), *days)

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def is_up():
            try:
                return client.get("/server_info").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(is_up, 150, dev.output)
        nodes = {tuple(node["assetKey"]["path"]): node for node in run_query(client, ASSETS)["assetNodes"]}
        assert set(nodes) == {("conversation_day", layer) for layer in ("staged", "history", "hot", "edge")}
        checks = nodes["conversation_day", "staged"]["assetChecksOrError"]["checks"]
        assert {(check["name"], check["blocking"]) for check in checks} == {
            ("completeness", True),
            ("schema", True),
            ("watermark", True),
        }

        run = run_query(
            client,
            LAUNCH_RUN,
            params={
                "selector": {
                    "repositoryLocationName": "cache_pipeline",
                    "repositoryName": "__repository__",
                    "pipelineName": "conversation_day_job",
                },
                "mode": "default",
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": str(today - timedelta(days=2))}]},
            },
        )["launchRun"]
        assert run["__typename"] == "LaunchRunSuccess", run
        status = wait_for(
            lambda: final_status(run_query(client, RUN, id=run["run"]["runId"])["runOrError"]["status"]),
            120,
            dev.output,
        )
        assert status == "SUCCESS", dev.output()

    # This day is not stored yet: the API enqueues a job, and the worker fetches it.
    day = f"{today - timedelta(days=4)}/{today - timedelta(days=3)}"
    url = f"http://127.0.0.1:{api_port}/v1/reports/conversation_day?interval={day}"
    answer = httpx.get(url, headers={"Prefer": "wait=30"}, timeout=40)
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"]

    for headers in ({"Host": "attacker.example"}, {"Origin": "https://attacker.example"}):
        assert httpx.get(url, headers=headers).status_code == 403
    assert not production_settings.exists()

    # The addresses stay on the screen; the events of the runs are in a file.
    wait_for(lambda: "Ctrl-C stops everything" in dev.output(), 60, dev.output)
    assert "RUN_SUCCESS" not in dev.output()
    log = project / "data" / "demo" / "dev.log"
    assert str(log) in dev.output()
    assert "RUN_SUCCESS" in log.read_text()

    dev.interrupt()
    assert dev.wait(40) == 130
    assert wait_until_no_processes(project, seconds=10)


def final_status(status):
    return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

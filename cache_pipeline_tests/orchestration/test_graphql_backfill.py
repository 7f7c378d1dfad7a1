"""Test of a backfill launched as the Dagster UI does it: by GraphQL, then run by the daemon."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.orchestration.workbench import LAYERS, STAGED_CHECKS, Bench

pytestmark = pytest.mark.serial

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TIMEOUT_SECONDS = 400.0

LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
RUNS = """
query ($tag: String!) {
  runsOrError(filter: {tags: [{key: "dagster/backfill", value: $tag}]}) { ... on Runs { results { runId status } } }
}"""
PARTITIONS = """
query ($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode { assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } } }
  }
}"""
CHECKS = """
query ($asset: AssetKeyInput!, $check: String!) {
  assetCheckExecutions(assetKey: $asset, checkName: $check, limit: 1000) { status evaluation { partition success } }
}"""
UP = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename } } } } }"


@pytest.fixture
def project_home(servers: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set a DAGSTER_HOME with the project's ``dagster.yaml``, whose files are in the test's folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    config["local_artifact_storage"]["config"]["base_dir"] = str(folder / "artifacts")
    config["compute_logs"]["config"]["base_dir"] = str(folder / "logs")
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    servers.setenv("DAGSTER_HOME", str(folder))
    return folder


@contextmanager
def running(log: Path, *command: str | Path) -> Generator[None]:
    """Run a Dagster process; end it and its children when the block ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, "-w", "workspace.yaml"], cwd=PROJECT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Ui:
    """What a browser with the Dagster UI open can do and see."""

    http: httpx.Client
    log: Path

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = self.http.post("/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def wait(self, event: str, question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := question()):
            assert time.monotonic() < deadline, (
                f"not within {TIMEOUT_SECONDS:.0f} s: {event}\n{self.log.read_text()[-3000:]}"
            )
            time.sleep(0.3)
        return found

    def is_up(self) -> bool:
        try:
            found = self.query(UP)["workspaceOrError"]["locationEntries"]
        except (httpx.TransportError, ValueError):
            return False
        return bool(found) and all(
            each["locationOrLoadError"] and each["locationOrLoadError"]["__typename"] == "RepositoryLocation"
            for each in found
        )

    def backfill(self, bench: Bench, keys: list[str]) -> str:
        """Launch a backfill of all the report's assets for these partitions."""
        assets = [{"path": [bench.report.name, layer]} for layer in LAYERS]
        launched = self.query(LAUNCH, params={"assetSelection": assets, "partitionNames": keys})
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", launched
        return launched["launchPartitionBackfill"]["backfillId"]

    def ended_runs(self, backfill: str) -> list[str]:
        """Wait until all runs of a backfill have ended; return their statuses."""

        def found() -> list[str]:
            statuses = [run["status"] for run in self.query(RUNS, tag=backfill)["runsOrError"]["results"]]
            return statuses if all(status in {"SUCCESS", "FAILURE", "CANCELED"} for status in statuses) else []

        return self.wait(f"the runs of backfill {backfill} end", found)

    def materialised(self, bench: Bench, layer: str) -> set[str]:
        path = {"path": [bench.report.name, layer]}
        ranges = self.query(PARTITIONS, asset=path)["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
        every = bench.partitions.get_partition_keys()
        return {
            key
            for each in ranges
            if each["status"] == "MATERIALIZED"
            for key in every[every.index(each["startKey"]) : every.index(each["endKey"]) + 1]
        }

    def passed(self, bench: Bench, check: str) -> set[str]:
        """Return the partitions that pass a check on ``staged``."""
        path = {"path": [bench.report.name, "staged"]}
        found = [each["evaluation"] for each in self.query(CHECKS, asset=path, check=check)["assetCheckExecutions"]]
        return {each["partition"] for each in found if each and each["success"] and each["partition"]}


@pytest.mark.timeout(900)
def test_graphql_backfill_is_one_run_and_relaunch_fetches_failures(one_query_bench: Bench, project_home: Path) -> None:
    bench = one_query_bench
    hundred = [key for key in bench.partitions.get_partition_keys() if key >= "2024-03-01"][:100]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = project_home / "dagster.log"
    daemon = (BIN / "dagster-daemon", "run")
    with ExitStack() as stack:
        webserver = (BIN / "dagster-webserver", "-h", "127.0.0.1", "-p", str(port))
        stack.enter_context(running(log, *webserver))
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        ui = Ui(http, log)
        ui.wait("the webserver has loaded the reports", ui.is_up)

        bench.fail_partitions(hundred[0], hundred[4])
        first = ui.backfill(bench, hundred)
        # The daemon looks for backfills when it starts, and then every thirty seconds.
        with running(log, *daemon):
            assert ui.ended_runs(first) == ["FAILURE"]
        # A failed day is asked for in halves, down to one hour.
        assert 100 <= bench.count_queries() <= 95 + 5 * 9
        done = ui.materialised(bench, "staged")
        assert len(done) == 95
        assert all(ui.materialised(bench, layer) == done for layer in LAYERS)
        assert all(ui.passed(bench, check) == done for check in STAGED_CHECKS)

        bench.clear_faults()
        relaunched = ui.backfill(bench, hundred)
        with running(log, *daemon):
            assert ui.ended_runs(relaunched) == ["SUCCESS"]
        assert bench.count_queries() == 5
        assert all(ui.materialised(bench, layer) == set(hundred) for layer in LAYERS)
        assert all(ui.passed(bench, check) == set(hundred) for check in STAGED_CHECKS)
    assert bench.coverage().final == IntervalSet([bench.interval(hundred[0], hundred[-1])])

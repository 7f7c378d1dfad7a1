"""The Dagster UI as its browser uses it: processes that serve it, and queries by GraphQL."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cache_pipeline_tests.orchestration.workbench import LAYERS, Bench

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
ASSETS = "{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(log: Path, *command: str | Path, folder: Path) -> Generator[None]:
    """Run a Dagster process in a folder; end it and its children when the block ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [BIN / command[0], *command[1:]], cwd=folder, stdout=out, stderr=out, start_new_session=True
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

    def backfill(self, reports: Iterable[str], keys: list[str]) -> str:
        """Launch a backfill of all assets of some reports for these partitions."""
        assets = [{"path": [name, layer]} for name in reports for layer in LAYERS]
        launched = self.query(LAUNCH, params={"assetSelection": assets, "partitionNames": keys})
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", launched
        return launched["launchPartitionBackfill"]["backfillId"]

    def ended_runs(self, backfill: str) -> list[str]:
        """Wait until all runs of a backfill have ended; return their statuses."""

        def found() -> list[str]:
            statuses = [run["status"] for run in self.query(RUNS, tag=backfill)["runsOrError"]["results"]]
            return statuses if all(status in {"SUCCESS", "FAILURE", "CANCELED"} for status in statuses) else []

        return self.wait(f"the runs of backfill {backfill} end", found)

    def assets(self) -> dict[str, bool]:
        """Return all assets, and whether each has been materialised."""
        nodes = self.query(ASSETS)["assetNodes"]
        return {"/".join(node["assetKey"]["path"]): bool(node["assetMaterializations"]) for node in nodes}

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

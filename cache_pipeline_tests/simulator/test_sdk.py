"""Tests with the vendor's own SDK, which shares no code with us and accepts the simulator as the vendor."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.simulator.genesys_families import OTHER_FAMILIES
from cache_pipeline.simulator.genesys_query import CONVERSATIONS, FLOWS, USERS
from cache_pipeline.vendors.genesys.metrics import OBSERVATIONS
from cache_pipeline.vendors.genesys.permissions import AGGREGATE_PERMISSIONS

PROGRAM = Path(__file__).with_name("sdk_program.py")
SETTINGS = SimulatorSettings(
    clients={"demo-client": SecretStr("demo-secret"), "limited-client": SecretStr("limited-secret")},
    client_permissions={"limited-client": frozenset({"analytics:conversationDetail:view"})},
    conversations_per_working_day=400,
    report_limit_in_429=True,
    job_seconds_base=0.3,
    job_seconds_per_1000_cells=0.0,
)
DAY = "2024-06-10T00:00:00Z/2024-06-11T00:00:00Z"
LIVE_STATES = {"QUEUED", "PENDING", "FULFILLED"}

Observations = dict[str, Any]


@pytest.fixture(scope="module")
def sdk_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Observations, int]:
    """Return the SDK's observations, and the day's offered conversations by the simulator's truth."""
    home = tmp_path_factory.mktemp("home")
    with running_simulator(SETTINGS) as url:
        environment = {**os.environ, "HOME": str(home)}
        command = [sys.executable, "-W", "ignore", str(PROGRAM), url]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert run.returncode == 0, run.stderr
        rows = httpx.get(f"{url}/simulator/truth", params={"interval": DAY}).json()["rows"]
        directory = httpx.get(f"{url}/simulator/directory").json()
    return {**json.loads(run.stdout.splitlines()[-1]), "directory": directory}, sum(row["offered"] for row in rows)


def test_jobs_of_every_family_finish_with_all_pages(sdk_run: tuple[Observations, int]) -> None:
    result, _ = sdk_run
    for family in ("details", "users", "conversations", "flows", "user_aggregates"):
        assert set(result[family]["states"]) <= LIVE_STATES
        assert result[family]["states"][-1] == "FULFILLED"
        assert result[family]["pages"] > 1
    assert result["conversations"]["same"]
    assert result["flows"]["same"]
    assert result["user_aggregates"]["same"]


def test_other_families_answer_alike_by_job_and_query(sdk_run: tuple[Observations, int]) -> None:
    result, _ = sdk_run
    assert list(result["others"]) == [family.name for family in OTHER_FAMILIES]
    for family in OTHER_FAMILIES:
        answer = result["others"][family.name]
        assert set(answer["states"]) <= LIVE_STATES, family.name
        assert answer["same"], family.name
        assert answer["metrics"] == sorted(family.metrics)


def test_families_have_exactly_the_sdks_names(sdk_run: tuple[Observations, int]) -> None:
    families = (CONVERSATIONS, FLOWS, USERS, *OTHER_FAMILIES)
    ours = {
        family.name: {"metrics": sorted(family.metrics), "dimensions": sorted(family.dimensions)} for family in families
    }
    assert ours == sdk_run[0]["names"]


def test_client_matches_the_sdks_observations_and_permissions(
    sdk_run: tuple[Observations, int],
) -> None:
    names_by_family = sdk_run[0]["names"]
    observations = {
        family: tuple(name for name in names["metrics"] if name.startswith("o"))
        for family, names in names_by_family.items()
    }
    assert {family: metrics for family, metrics in observations.items() if metrics} == OBSERVATIONS
    permissions = {family.name: family.permissions for family in (CONVERSATIONS, FLOWS, USERS, *OTHER_FAMILIES)}
    assert permissions == AGGREGATE_PERMISSIONS


def test_sdk_reads_every_conversation_of_the_day(sdk_run: tuple[Observations, int]) -> None:
    result, offered = sdk_run
    assert result["details"]["offered"] == offered > 100
    assert result["details"]["query"]["rows"] == 100
    assert result["details"]["query"]["hits"] <= result["details"]["conversations"]
    assert result["details"]["watermark"]


def test_sdk_knows_every_value(sdk_run: tuple[Observations, int]) -> None:
    result, _ = sdk_run
    values = [*result["details"]["scalars"], *result["users"]["presences"], *result["users"]["routing"]]
    assert "outdated_sdk_version" not in values
    assert {"acd", "agent", "customer", "voice", "interact", "wrapup", "peer"} <= set(values)
    assert {"ON_QUEUE", "OFFLINE", "INTERACTING", "OFF_QUEUE"} <= set(values)
    assert result["users"]["users"] == result["users"]["aggregate_users"] == 30
    assert set(result["users"]["qualifiers"]) == set(result["users"]["presences"])


def test_sdk_reads_every_name_page_by_page(sdk_run: tuple[Observations, int]) -> None:
    result, _ = sdk_run
    assert {kind: listing["names"] for kind, listing in result["lookups"].items()} == result["directory"]
    assert {kind: listing["pages"] for kind, listing in result["lookups"].items()} == {
        "queues": 3, "users": 10, "skills": 2, "wrapupcodes": 2, "divisions": 1, "flows": 1, "groups": 1, "teams": 2
    }  # fmt: skip
    assert not any("outdated_sdk_version" in listing["scalars"] for listing in result["lookups"].values())


def test_sdk_reads_observations_of_queues_and_users(sdk_run: tuple[Observations, int]) -> None:
    result, _ = sdk_run
    queues, users = result["observations"]["queue"], result["observations"]["user"]
    assert queues["ids"] == sorted(result["directory"]["queues"])
    assert users["ids"] == sorted(result["directory"]["users"])
    assert "outdated_sdk_version" not in (*queues["scalars"], *users["scalars"])
    assert queues["counts"]["oMemberUsers"] == queues["counts"]["oUserPresences"] > 0
    assert users["counts"]["oMemberQueues"] == queues["counts"]["oMemberUsers"]
    assert ["queueId"] in queues["groups"]


def test_sdk_subscribes_and_is_told_of_a_call(sdk_run: tuple[Observations, int]) -> None:
    found = sdk_run[0]["notifications"]
    assert 23.9 < found["lives_hours"] <= 24
    assert found["topics"] == [len(sdk_run[0]["directory"]["queues"])] * 3
    assert found["states"] == ["Permitted"]
    assert found["available"] == ["v2.analytics.queues.{id}.observations"]
    assert found["pong"] == {"topicName": "channel.metadata", "eventBody": {"message": "pong"}}
    assert (found["medium"], found["left"]) == ("voice", 0)


def test_deleted_job_is_unknown(sdk_run: tuple[Observations, int]) -> None:
    refusal = sdk_run[0]["details"]["after_delete"]
    assert (refusal["status"], refusal["code"]) == (404, "not.found")


@pytest.mark.parametrize(
    ("case", "status", "code", "message"),
    [
        ("metric", 400, "invalid.value", "Value [nImaginary] is not valid for field type [metrics]"),
        ("interval", 400, "bad.request", "does not exceed 31 days"),
        ("body", 413, "request.entity.too.large", "Maximum bytes: 512000"),
        ("early", 400, "bad.request", "not FULFILLED"),
        ("permission", 403, "missing.any.permissions", "[analytics:userDetail:view]"),
    ],
)
def test_refusal_is_a_traceable_error_body(sdk_run, case: str, status: int, code: str, message: str) -> None:
    refusal = sdk_run[0]["errors"][case]
    assert (refusal["status"], refusal["code"]) == (status, code)
    assert message in refusal["message"]
    assert refusal["is_traceable"]


def test_429_has_retry_after_and_names_the_limit(sdk_run: tuple[Observations, int]) -> None:
    refusal = sdk_run[0]["errors"]["rate"]
    assert (refusal["status"], refusal["code"]) == (429, "too.many.requests.retry.after")
    assert int(refusal["retry_after"]) >= 1
    assert refusal["limit"]["key"] == "client.credentials.token.rate.per.minute"

"""The vendor's own SDK, which shares no code with us, takes the simulator for the vendor."""

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

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, int]:
    """What the SDK saw, and the offered conversations of the day by the simulator's own books."""
    home = tmp_path_factory.mktemp("home")
    with running_simulator(SETTINGS) as url:
        environment = {**os.environ, "HOME": str(home)}
        command = [sys.executable, "-W", "ignore", str(PROGRAM), url]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert run.returncode == 0, run.stderr
        rows = httpx.get(f"{url}/simulator/truth", params={"interval": DAY}).json()["rows"]
    return json.loads(run.stdout.splitlines()[-1]), sum(row["offered"] for row in rows)


def test_every_family_of_jobs_goes_from_submit_to_its_last_page(seen: tuple[Seen, int]) -> None:
    told, _ = seen
    for family in ("details", "users", "conversations", "flows", "user_aggregates"):
        assert set(told[family]["states"]) <= LIVE_STATES
        assert told[family]["states"][-1] == "FULFILLED"
        assert told[family]["pages"] > 1
    assert told["conversations"]["same"]
    assert told["flows"]["same"]
    assert told["user_aggregates"]["same"]


def test_every_other_family_tells_each_of_its_metrics_by_job_as_by_query(seen: tuple[Seen, int]) -> None:
    told, _ = seen
    assert list(told["others"]) == [family.name for family in OTHER_FAMILIES]
    for family in OTHER_FAMILIES:
        found = told["others"][family.name]
        assert set(found["states"]) <= LIVE_STATES, family.name
        assert found["same"], family.name
        assert found["told"] == sorted(family.metrics)


def test_each_family_knows_the_words_that_the_sdk_knows_and_no_others(seen: tuple[Seen, int]) -> None:
    families = (CONVERSATIONS, FLOWS, USERS, *OTHER_FAMILIES)
    ours = {
        family.name: {"metrics": sorted(family.metrics), "dimensions": sorted(family.dimensions)} for family in families
    }
    assert ours == seen[0]["words"]


def test_the_client_knows_the_observations_that_the_sdk_knows_and_the_families_permissions(
    seen: tuple[Seen, int],
) -> None:
    words = seen[0]["words"]
    observations = {
        family: tuple(name for name in told["metrics"] if name.startswith("o")) for family, told in words.items()
    }
    assert {family: names for family, names in observations.items() if names} == OBSERVATIONS
    permissions = {family.name: family.permissions for family in (CONVERSATIONS, FLOWS, USERS, *OTHER_FAMILIES)}
    assert permissions == AGGREGATE_PERMISSIONS


def test_the_sdk_reads_every_conversation_of_the_day(seen: tuple[Seen, int]) -> None:
    told, offered = seen
    assert told["details"]["offered"] == offered > 100
    assert told["details"]["query"]["rows"] == 100
    assert told["details"]["query"]["hits"] <= told["details"]["conversations"]
    assert told["details"]["watermark"]


def test_no_word_is_one_that_the_sdk_does_not_know(seen: tuple[Seen, int]) -> None:
    told, _ = seen
    words = [*told["details"]["scalars"], *told["users"]["presences"], *told["users"]["routing"]]
    assert "outdated_sdk_version" not in words
    assert {"acd", "agent", "customer", "voice", "interact", "wrapup", "peer"} <= set(words)
    assert {"ON_QUEUE", "OFFLINE", "INTERACTING", "OFF_QUEUE"} <= set(words)
    assert told["users"]["users"] == told["users"]["aggregate_users"] == 30
    assert set(told["users"]["qualifiers"]) == set(told["users"]["presences"])


def test_a_deleted_job_is_unknown(seen: tuple[Seen, int]) -> None:
    refusal = seen[0]["details"]["after_delete"]
    assert (refusal["status"], refusal["code"]) == (404, "not.found")


@pytest.mark.parametrize(
    ("what", "status", "code", "words"),
    [
        ("metric", 400, "invalid.value", "Value [nImaginary] is not valid for field type [metrics]"),
        ("interval", 400, "bad.request", "does not exceed 31 days"),
        ("body", 413, "request.entity.too.large", "Maximum bytes: 512000"),
        ("early", 400, "bad.request", "not FULFILLED"),
        ("permission", 403, "missing.any.permissions", "[analytics:userDetail:view]"),
    ],
)
def test_a_refusal_is_an_error_body_that_can_be_traced(seen, what: str, status: int, code: str, words: str) -> None:
    refusal = seen[0]["errors"][what]
    assert (refusal["status"], refusal["code"]) == (status, code)
    assert words in refusal["message"]
    assert refusal["traced"]


def test_the_rate_limit_says_when_to_come_back_and_which_it_was(seen: tuple[Seen, int]) -> None:
    refusal = seen[0]["errors"]["rate"]
    assert (refusal["status"], refusal["code"]) == (429, "too.many.requests.retry.after")
    assert int(refusal["retry_after"]) >= 1
    assert refusal["limit"]["key"] == "client.credentials.token.rate.per.minute"

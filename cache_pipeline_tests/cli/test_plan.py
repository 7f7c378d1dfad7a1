"""``cache-pipeline plan`` and ``query``: told before anything is sent, and asked."""

import json
import sys
from pathlib import Path

import httpx
import pytest

from cache_pipeline.cli.main import main
from cache_pipeline_tests.query.declared import FIELDS, grouped

DAY = "2026-01-05/P1D"


@pytest.fixture
def said(servers, simulator_url, tmp_path: Path, monkeypatch, capsys):
    """Runs a command on a report of quarters; gives what it printed."""
    quarters = grouped({**FIELDS, "granularity": "PT15M", "name": "quarters", "time_zone": "Europe/Berlin"})
    (tmp_path / "quarters.yaml").write_text(json.dumps(quarters))
    account = {
        "base_url": simulator_url,
        "login_url": f"{simulator_url}/oauth/token",
        "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
        "retention_days": 3650,
    }
    monkeypatch.setenv("CACHE_PIPELINE_REPORTDATA", json.dumps(account))
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
        main()
        return capsys.readouterr().out

    return run


def submits(simulator_url: str) -> int:
    return httpx.get(f"{simulator_url}/simulator/counters").json()["summary"]["submits"]


def test_a_plan_tells_what_will_be_asked_and_the_query_asks_for_just_that(said, simulator_url):
    options = ("quarters", DAY, "--group-by", "queueId", "--granularity", "PT1H", "--filter", "mediaType!=chat")
    planned = json.loads(said("plan", *options))
    assert [(step["source"], step["interval"], step["why"]) for step in planned["steps"]] == [
        ("vendor", "2026-01-04T23:00:00Z/2026-01-05T23:00:00Z", "not stored")
    ]
    assert (planned["upstreamQueries"], planned["groupBy"], planned["granularity"]) == (1, ["queueId"], "PT1H")
    assert planned["calls"] > 0 < planned["seconds"]
    assert submits(simulator_url) == 0

    document = json.loads(said("query", *options))
    assert document["columns"] == ["interval_start", "interval_end", "queue_id", "answered", "offered"]
    assert len({row[0] for row in document["rows"]}) == 24
    asked = submits(simulator_url)
    assert asked > 0

    again = json.loads(said("plan", "quarters", DAY))
    assert ({step["source"] for step in again["steps"]}, again["calls"]) == ({"history"}, 0)
    assert json.loads(said("query", "quarters", DAY, "--metrics", "offered", "--json"))["rows"]
    assert submits(simulator_url) == asked


def test_people_see_tables(said, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = said("plan", "quarters", DAY, "--group-by", "")
    assert "not stored" in shown
    assert "1 upstream query, about 3 requests" in shown
    shown = said("query", "quarters", DAY, "--group-by", "", "--granularity", "P1D")
    assert "quarters 2026-01-04T23:00:00Z/2026-01-05T23:00:00Z, P1D in Europe/Berlin" in shown
    assert "final" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plan", "quarters", DAY, "--group-by", "queue"), "group_by: unknown name 'queue' (did you mean queueId?)"),
        (("plan", "quarters", DAY, "--granularity", "PT5M"), "granularity: quarters has buckets of PT15M"),
        (("query", "quarters", DAY, "--filter", "mediaType"), "--filter 'mediaType' is no condition"),
        (("query", "quarters", DAY, "--filter", '{"predicates": '), "is not JSON"),
        (("query", "quarters", DAY, "--filter", "mediaType=chat", "--filter", "mediaType=voice"), "contradicts itself"),
        (("query", "quarters", DAY, "--time-zone", "Mars/Olympus"), "time_zone: time zone 'Mars/Olympus'"),
        (("plan", "quarters", "2026-01-05/2026-01-04"), "reversed"),
        (("plan", "quarters", "2999-01-01/P1D"), "has not started yet"),
        (("plan", "quarters", "1999-01-01/P1D"), "keeps nothing from before"),
        (("query", "quarters", "1999-01-01/P1D"), "(CACHE_PIPELINE_REPORTDATA__RETENTION_DAYS): ask from"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_line_and_code_two(said, capsys, simulator_url, arguments, told):
    with pytest.raises(SystemExit) as ended:
        said(*arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert submits(simulator_url) == 0

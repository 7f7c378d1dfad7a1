"""Tests of `cache-pipeline plan` and `query`: the plan before anything is sent, and the query that follows it."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from cache_pipeline.cli.main import main
from cache_pipeline_tests.query.declared import FIELDS, grouped

DAY = "2026-01-05/P1D"


@pytest.fixture
def run_cli(servers, simulator_url, tmp_path: Path, monkeypatch, capsys):
    """Return a function that runs a command on a report by quarter hour and returns its output."""
    declaration = grouped({**FIELDS, "granularity": "PT15M", "name": "quarters", "time_zone": "Europe/Berlin"})
    (tmp_path / "quarters.yaml").write_text(json.dumps(declaration))
    account = {
        "base_url": simulator_url,
        "login_url": f"{simulator_url}/oauth/token",
        "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
        "retention_days": 3650,
    }
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", json.dumps(account))
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
        main()
        return capsys.readouterr().out

    return run


def submits(simulator_url: str) -> int:
    return httpx.get(f"{simulator_url}/simulator/counters").json()["summary"]["submits"]


def test_query_sends_exactly_what_plan_shows(run_cli, simulator_url):
    options = ("quarters", DAY, "--group-by", "queueId", "--granularity", "PT1H", "--filter", "mediaType!=chat")
    planned = json.loads(run_cli("plan", *options))
    assert [(step["source"], step["interval"], step["reason"]) for step in planned["steps"]] == [
        ("vendor", "2026-01-04T23:00:00Z/2026-01-05T23:00:00Z", "not stored")
    ]
    assert (planned["upstreamQueries"], planned["groupBy"], planned["granularity"]) == (1, ["queueId"], "PT1H")
    assert planned["calls"] > 0 < planned["seconds"]
    assert submits(simulator_url) == 0

    document = json.loads(run_cli("query", *options))
    assert document["columns"] == ["interval_start", "interval_end", "queue_id", "answered", "offered"]
    assert len({row[0] for row in document["rows"]}) == 24
    submitted = submits(simulator_url)
    assert submitted > 0

    second_plan = json.loads(run_cli("plan", "quarters", DAY))
    assert ({step["source"] for step in second_plan["steps"]}, second_plan["calls"]) == ({"history"}, 0)
    assert json.loads(run_cli("query", "quarters", DAY, "--metrics", "offered", "--json"))["rows"]
    assert submits(simulator_url) == submitted


def test_plan_says_what_it_costs_of_the_month(run_cli, monkeypatch):
    assert json.loads(run_cli("plan", "quarters", DAY, "--json"))["month"] is None
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN__MONTHLY_REQUESTS", "1000")
    planned = json.loads(run_cli("plan", "quarters", DAY, "--json"))
    assert planned["month"]["share"] == pytest.approx(planned["calls"] / 1000, abs=0.001)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "% of the month's 1,000 requests; 0 of 1,000 are used" in " ".join(run_cli("plan", "quarters", DAY).split())


def test_terminal_output_is_a_table(run_cli, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    output = run_cli("plan", "quarters", DAY, "--group-by", "")
    assert "not stored" in output
    assert "1 upstream query, about 3 requests" in output
    output = run_cli("query", "quarters", DAY, "--group-by", "", "--granularity", "P1D")
    assert "quarters 2026-01-04T23:00:00Z/2026-01-05T23:00:00Z, P1D in Europe/Berlin" in output
    assert "final" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "quarters", DAY, "--group-by", "queue"), "group_by: unknown name 'queue' (did you mean queueId?)"),
        (("plan", "quarters", DAY, "--granularity", "PT5M"), "granularity: quarters has buckets of PT15M"),
        (("query", "quarters", DAY, "--filter", "mediaType"), "--filter 'mediaType' is not a condition"),
        (("query", "quarters", DAY, "--filter", '{"predicates": '), "is not JSON"),
        (("query", "quarters", DAY, "--filter", "mediaType=chat", "--filter", "mediaType=voice"), "contradicts itself"),
        (("query", "quarters", DAY, "--time-zone", "Mars/Olympus"), "time_zone: time zone 'Mars/Olympus'"),
        (("plan", "quarters", "2026-01-05/2026-01-04"), "reversed"),
        (("plan", "quarters", "2999-01-01/P1D"), "has not started yet"),
        (("plan", "quarters", "1999-01-01/P1D"), "keeps nothing from before"),
        (
            ("query", "quarters", "1999-01-01/P1D"),
            "(CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN__RETENTION_DAYS): ask from",
        ),
    ],
)
def test_unanswerable_query_gets_one_line_and_exit_code_2(run_cli, capsys, simulator_url, arguments, message):
    with pytest.raises(SystemExit) as exited:
        run_cli(*arguments)
    assert exited.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert submits(simulator_url) == 0


def test_query_answers_as_of_an_instant(run_cli, tmp_path, monkeypatch, capsys):
    declaration = json.loads((tmp_path / "quarters.yaml").read_text()) | {"time_travel": "P90D"}
    (tmp_path / "quarters.yaml").write_text(json.dumps(declaration))
    document = json.loads(run_cli("query", "quarters", DAY))
    as_of = datetime.now(UTC).isoformat()
    then = json.loads(run_cli("query", "quarters", DAY, "--as-of", as_of))
    assert (then["rows"], then["asOf"][:19]) == (document["rows"], as_of[:19])
    assert "as known at" in run_cli("query", "quarters", DAY, "--as-of", as_of, "--format", "table")
    for instant, problem in (("2026-01-01T00:00:00Z", "since"), ("2126-01-01T00:00:00Z", "future"), ("noon", "ISO")):
        with pytest.raises(SystemExit) as ended:
            run_cli("query", "quarters", DAY, "--as-of", instant)
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("cache-pipeline: as_of: ")
        assert problem in line

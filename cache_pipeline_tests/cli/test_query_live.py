"""`cache-pipeline query` of live reports, and of reports with a live part: the API's answer and the API's errors."""

import csv
import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from cache_pipeline.cli.main import main

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture
def run_cli(servers, simulator_url, tmp_path, monkeypatch, capsys):
    """Return a function that runs a command and returns its exit code and output."""
    for name in ("conversation_hour", "conversation_day", "queue_now"):
        (tmp_path / f"{name}.yaml").write_text((REPORTS / f"{name}.yaml").read_text())
    account = {
        "base_url": simulator_url,
        "login_url": f"{simulator_url}/oauth/token",
        "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
        "retention_days": 3650,
    }
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", json.dumps(account))
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        output = capsys.readouterr()
        return code, output.out or output.err

    return run


def test_live_report_is_queried_without_an_interval(run_cli, tmp_path, monkeypatch):
    code, text = run_cli("query", "queue_now", "--names")
    document = json.loads(text)
    assert (code, document["report"], document["delivery"]["mode"]) == (0, "queue_now", "query")
    assert document["columns"][:2] == ["queue_id", "queue_name"]
    assert run_cli("query", "queue_now", "-o", str(tmp_path / "now.parquet"))[0] == 0
    assert pq.read_table(tmp_path / "now.parquet").num_rows == len(document["rows"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, shown = run_cli("query", "queue_now")
    assert "queue_now, now" in shown
    assert "observed 20" in shown


def test_live_part_is_beside_stored_figures(run_cli, simulator_url):
    # At night there may be no other call.
    httpx.post(f"{simulator_url}/simulator/calls", json={"wait_seconds": 0, "talk_seconds": 0}).raise_for_status()
    day = datetime.now(UTC) - timedelta(hours=1)
    interval = f"{day:%Y-%m-%dT%H:00Z}/PT2H"
    code, text = run_cli("query", "conversation_hour", interval, "--live", "--format", "csv", "--local-time")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["state"] for row in rows} >= {"live", "provisional"}
    assert all((row["interval_start"] == "") == (row["state"] == "live") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["query", "queue_now", "2026-01-05/P1D"], "queue_now shows the present and keeps no history"),
        (["query", "queue_now", "--group-by", "queueId"], "group_by: queue_now is live"),
        (["query", "queue_now", "--measures", "x"], "measures: queue_now is live"),
        (["query", "queue_now", "--live"], "live: queue_now is live"),
        (["query", "queue_now", "--format", "csv", "--local-time"], "queue_now has no time zone"),
        (["query", "queue_now", "--as-of", "2026-01-05T00:00Z"], "as_of: queue_now is live"),
        (["query", "conversation_hour", "2026-01-05/P1D", "--live", "--as-of", "2026-01-06T00:00Z"], "have no present"),
        (["query", "conversation_hour"], "Missing argument 'INTERVAL'"),
        (["query", "conversation_day", "2026-01-05/P1D", "--live"], "conversation_day declares no live report"),
        (["query", "queue_later"], "Missing argument 'INTERVAL'"),
        (["query", "queue_later", "2026-01-05/P1D"], "conversation_day, conversation_hour, queue_now"),
        (["plan", "queue_now", "2026-01-05/P1D"], "queue_now is live"),
    ],
)
def test_bad_input_is_one_line(run_cli, arguments, problem):
    code, text = run_cli(*arguments)
    assert code == 2
    assert problem in text
    assert text.count("\n") == 1

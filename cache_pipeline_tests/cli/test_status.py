"""``cache-pipeline status``: beside what is kept it says what is being done, and what quota is left."""

import json
import sys
from datetime import UTC, datetime

import psycopg
import pytest

from cache_pipeline.bootstrap import load_reports
from cache_pipeline.cli.main import main
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.ledger import JobHandle, LedgerRequest, open_ledger

ACCOUNT = json.dumps({"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "one", "client_secret": "s"}]})
DAY = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))


@pytest.fixture
def said(servers, monkeypatch, capsys):
    """Runs a command on servers that are migrated; returns what it printed."""
    monkeypatch.setenv("CACHE_PIPELINE_GENESYS", ACCOUNT)
    for name in ("REPORTDATA", "CXONE"):
        monkeypatch.delenv(f"CACHE_PIPELINE_{name}", raising=False)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
        main()
        return capsys.readouterr().out

    run("migrate")
    return run


def test_open_queries_jobs_and_quota_are_told_beside_the_reports(said, postgres_database):
    nothing = said("status")
    assert "upstream queries: none" in nothing
    assert "jobs of the HTTP API: none" in nothing
    assert "quota of one (genesys): available, 0 of 300 used" in nothing
    report = next(iter(load_reports(read_settings()).values()))
    with open_ledger(postgres_database) as ledger:
        claim = ledger.claim(LedgerRequest(Series(report), DAY, Lane.backfill, DAY.end, DAY.end))
        ledger.mark_submitted(claim, JobHandle("job-1", "one"))
    with psycopg.connect(postgres_database) as connection:
        connection.execute(
            "INSERT INTO cache_pipeline_state.job (id, key, tenant, report, request, lane, requested_by)"
            " VALUES (gen_random_uuid(), 'k', 'default', 'r', '{}', 'interactive', ARRAY['a'])"
        )
    told = json.loads(said("status", "--json"))
    assert {each["report"] for each in told["reports"]} == set(load_reports(read_settings()))
    assert told["queries"] == {"submitted": 1}
    assert told["jobs"]["queued"] == 1
    assert told["quota"][0]["remaining"] == 300


def test_a_redis_that_is_away_hides_nothing_else(said, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", "redis://127.0.0.1:9/0")
    told = said("status")
    assert "upstream queries: none" in told
    assert "quota" in told

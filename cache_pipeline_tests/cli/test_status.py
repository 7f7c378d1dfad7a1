"""Tests of `cache-pipeline status`: stored data, open queries and jobs, and quota."""

import json
import sys
from datetime import UTC, datetime

import psycopg
import pytest

from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.cli.main import main
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.ports.ledger import JobHandle, LedgerRequest
from cache_pipeline.storage.postgres.ledger import open_ledger

ACCOUNT = json.dumps({"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "one", "client_secret": "s"}]})
DAY = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))


@pytest.fixture
def run_cli(servers, monkeypatch, capsys):
    """Return a function that runs a command on migrated servers and returns its output."""
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", ACCOUNT)
    for name in ("REPORTDATA", "CXONE"):
        monkeypatch.delenv(f"CACHE_PIPELINE_ACCOUNTS__{name}__MAIN", raising=False)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
        main()
        return capsys.readouterr().out

    run("migrate")
    return run


def test_status_shows_reports_queries_jobs_and_quota(run_cli, postgres_database):
    empty_status = run_cli("status")
    assert "upstream queries: none" in empty_status
    assert "jobs of the HTTP API: none" in empty_status
    assert "quota of one (genesys/main): available, 0 of 300 used" in empty_status
    report = next(iter(load_reports(read_settings()).values()))
    with open_ledger(postgres_database) as ledger:
        claim = ledger.claim(LedgerRequest(Series(report), DAY, Lane.backfill, DAY.end, DAY.end))
        ledger.mark_submitted(claim, JobHandle("job-1", "one"))
    with psycopg.connect(postgres_database) as connection:
        connection.execute(
            "INSERT INTO cache_pipeline_state.job (id, key, tenant, report, request, lane, requested_by)"
            " VALUES (gen_random_uuid(), 'k', 'default', 'r', '{}', 'interactive', ARRAY['a'])"
        )
    status = json.loads(run_cli("status", "--json"))
    assert {each["report"] for each in status["reports"]} == set(load_reports(read_settings()))
    assert status["queries"] == {"submitted": 1}
    assert status["jobs"]["queued"] == 1
    assert status["quota"][0]["remaining"] == 300


def test_status_works_without_redis(run_cli, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", "redis://127.0.0.1:9/0")
    status = run_cli("status")
    assert "upstream queries: none" in status
    assert "quota: Redis cannot be used" in status
    assert "0 of 300 used" not in status

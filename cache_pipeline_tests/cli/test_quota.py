"""Tests of `cache-pipeline quota`: the shared quota as a table and as JSON."""

import asyncio
import json
import sys

import pytest
import redis.asyncio as redis

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.cli.main import main
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import read_settings
from cache_pipeline.upstream.client import create_upstream_quota

SECRET = "planted-secret-value"


@pytest.fixture
def account(servers, monkeypatch):
    clients = [{"client_id": f"example-{number}", "client_secret": SECRET} for number in (1, 2)]
    account = {"base_url": "http://127.0.0.1:9", "clients": clients}
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", json.dumps(account))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def run_quota(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "quota", *arguments])
        main()
        return capsys.readouterr().out

    return run


async def take_one(redis_url):
    async with redis.Redis.from_url(redis_url) as connection:
        quota = create_upstream_quota(connect_vendor(read_settings(), "reportdata/main").config, connection)
        grant = await quota.acquire(Lane.interactive)
        await quota.settle(grant, remaining=59, retry_after=None, rejected=False)


def test_quota_counts_requests_of_other_processes(account, run_quota, redis_database):
    asyncio.run(take_one(redis_database))
    clients = json.loads(run_quota("--json"))["reportdata/main"]["clients"]
    assert sorted(client["used"] for client in clients) == [0, 1]
    used = next(client for client in clients if client["used"])
    # 60 less the reserve of 3; the lanes' shares are of those 57.
    assert used["room"] == {"interactive": 56, "scheduled": 50, "backfill": 44}


def test_quota_shows_further_limits_and_the_month(account, run_quota, redis_database, monkeypatch):
    prefix = "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN__"
    monkeypatch.setenv(f"{prefix}ORGANISATION_RATE_LIMIT", "90")
    monkeypatch.setenv(f"{prefix}MONTHLY_REQUESTS", "10000")
    asyncio.run(take_one(redis_database))
    found = json.loads(run_quota("--json"))["reportdata/main"]
    assert [(each["counts"], each["limit"], each["used"]) for each in found["limits"]] == [("organisation", 90, 1)]
    assert (found["month"]["allotted"], found["month"]["used"]) == (10_000, 1)
    shown = " ".join(run_quota().split())
    assert "1 of 90 in 60 s" in shown
    assert "reportdata/main: 1 of 10,000 are used, at 1 a day the month takes" in shown


def test_quota_table_shows_clients_but_no_secret(account, run_quota):
    table = run_quota()
    assert "example-1" in table
    assert "example-2" in table
    assert "available" in table
    assert "token age" in table
    assert SECRET not in table


def test_quota_without_account_names_missing_setting(servers, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cache-pipeline", "quota"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert "CACHE_PIPELINE_ACCOUNTS__VENDOR__MAIN" in capsys.readouterr().err

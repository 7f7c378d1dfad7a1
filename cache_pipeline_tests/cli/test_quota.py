"""``cache-pipeline quota``: what every process shares, for people and for programs."""

import asyncio
import json
import sys

import pytest
import redis.asyncio as redis

from cache_pipeline.cli.main import main
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.quota import Quota, QuotaPolicy

SECRET = "planted-secret-value"


@pytest.fixture
def account(servers, monkeypatch):
    clients = [{"client_id": f"example-{number}", "client_secret": SECRET} for number in (1, 2)]
    account = {"base_url": "http://127.0.0.1:9", "clients": clients}
    monkeypatch.setenv("CACHE_PIPELINE_REPORTDATA", json.dumps(account))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def said(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "quota", *arguments])
        main()
        return capsys.readouterr().out

    return run


async def take_one(redis_url):
    async with redis.Redis.from_url(redis_url) as connection:
        quota = Quota(connection, "reportdata", {"example-1": 1, "example-2": 1}, QuotaPolicy(60, 60))
        grant = await quota.acquire(Lane.interactive)
        await quota.settle(grant, remaining=59, retry_after=None, rejected=False)


def test_what_another_process_sent_is_seen(account, said, redis_database):
    asyncio.run(take_one(redis_database))
    clients = json.loads(said("--json"))["reportdata"]
    assert sorted(client["used"] for client in clients) == [0, 1]
    used = next(client for client in clients if client["used"])
    # 60 less the reserve of 3; the lanes' shares are of those 57.
    assert used["room"] == {"interactive": 56, "scheduled": 50, "backfill": 44}


def test_people_see_every_client_and_no_secret(account, said):
    shown = said()
    assert "example-1" in shown
    assert "example-2" in shown
    assert "available" in shown
    assert "token age" in shown
    assert SECRET not in shown


def test_without_an_account_it_says_which_setting_is_missing(servers, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cache-pipeline", "quota"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "CACHE_PIPELINE_GENESYS" in capsys.readouterr().err

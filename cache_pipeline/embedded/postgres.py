"""Create the PostgreSQL cluster atomically and describe how to run its server."""

import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.binaries import Wheel
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.server_process import LaunchContext, Program, read_tail, spawn

USER: Final = "cache_pipeline"
DATABASE: Final = "cache_pipeline"
_INITDB_OPTIONS: Final = (
    f"--username={USER}",
    "--pwfile=../password",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # PostgreSQL's own collation, independent of this machine's locales, sorts the same everywhere.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
    # Iterations protect guessable passwords; ours has 192 random bits. Dagster opens a connection for each event that it
    # stores, and 4,096 iterations would take more than half of each connection's time.
    "--set=scram_iterations=1",
)
# fsync, full_page_writes and synchronous_commit stay on, as by default: kill -9 must not lose acknowledged data.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    # The path of a Unix socket is limited to about 107 bytes, and a data folder's path is easily longer.
    "unix_socket_directories": "",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
}


def cluster_folder(data_dir: Path) -> Path:
    """Return the folder that holds the cluster and its password."""
    return data_dir / "postgres"


def prepare_program(context: LaunchContext, wheel: Wheel, data_dir: Path) -> Program:
    """Describe the server of the cluster in `data_dir`, after creating the cluster if there is none.

    Raises:
        EmbeddedServerError: The cluster cannot be created, or its password is missing.
        OwnerGoneError: The owner ended meanwhile.
    """
    folder = cluster_folder(data_dir)
    if not folder.exists():
        _create_cluster(context, wheel, data_dir)
    cluster = folder / "data"
    try:
        password = (folder / "password").read_text().strip()
    except OSError as error:
        raise EmbeddedServerError(
            f"Cannot read the password of the embedded PostgreSQL, {error.filename}: {error.strerror}. Run as the user "
            f"who owns {folder}, or remove that folder to start again without its data."
        ) from error
    _remove_stale_pid_file(cluster)
    postgres = wheel.program("postgres")

    def command(port: int) -> list[str]:
        settings = {**_SETTINGS, "port": str(port)}
        return [
            str(postgres),
            *("-D", _path_for_server(context, cluster)),
            *(argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")),
        ]

    return Program(
        name="PostgreSQL",
        command=command,
        standard_input=lambda _port: b"",
        folder=cluster,
        log=data_dir / "postgres.log",
        is_ready=lambda pid, _port: _is_ready(cluster, pid),
        stop_signal=signal.SIGINT,  # "fast": open transactions are rolled back, then a checkpoint
        password=password,
    )


def _create_cluster(context: LaunchContext, wheel: Wheel, data_dir: Path) -> None:
    # Created under another name and renamed when complete, so that kill -9 leaves no partial cluster. The password is in
    # the renamed folder, so a cluster never exists without its password.
    unfinished = data_dir / "postgres.unfinished"
    log = data_dir / "postgres.log"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    paths = (unfinished, unfinished / "data", unfinished / "password")
    for folder in paths[:2]:
        folder.mkdir(mode=0o700)
    descriptor = os.open(paths[2], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(24))
        file.flush()
        os.fsync(descriptor)
    if context.identity:
        for path in paths:
            context.identity.chown(path)
    command = [str(wheel.program("initdb")), "-D", _path_for_server(context, paths[1]), *_INITDB_OPTIONS]
    initdb = spawn(context, command, paths[1], log, signal.SIGKILL)
    try:
        while initdb.poll() is None:
            context.owner.sleep(0.01)
    finally:
        if initdb.poll() is None:
            os.killpg(initdb.pid, signal.SIGKILL)
            initdb.wait()
    if initdb.returncode != 0:
        raise EmbeddedServerError(
            f"PostgreSQL could not create its data folder in {data_dir}. Output of initdb:\n{read_tail(log)}"
        )
    _fsync_folder(unfinished)
    unfinished.rename(cluster_folder(data_dir))
    _fsync_folder(data_dir)


def _path_for_server(context: LaunchContext, cluster: Path) -> str:
    # The servers' user may be unable to reach the folder by its path (it may be under /root), but the server starts in it,
    # and Linux names a process's working directory without that path. "." does not work: PostgreSQL makes it absolute.
    return "/proc/self/cwd" if context.identity and sys.platform == "linux" else str(cluster)


def _is_ready(cluster: Path, pid: int) -> bool:
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _remove_stale_pid_file(cluster: Path) -> None:
    # After a container restarts, another program often has the old server's process id, and PostgreSQL would mistake it for
    # a running server. Our claim on the folder proves that no server of ours is alive.
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return
    program = Path(f"/proc/{pid}/comm")
    if program.exists() and "postgres" not in program.read_text():
        pid_file.unlink()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

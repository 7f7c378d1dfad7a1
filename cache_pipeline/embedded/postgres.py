"""PostgreSQL: a cluster that is made whole or not at all, and how its server is run."""

import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.binaries import Wheel
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.server_process import Host, Program, spawn, tail

USER: Final = "cache_pipeline"
DATABASE: Final = "cache_pipeline"
_INITDB_OPTIONS: Final = (
    f"--username={USER}",
    "--pwfile=../password",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # PostgreSQL's own collation: no locale of this machine, so the same order everywhere.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
    # Iterations protect guessable passwords; ours has 192 random bits. Dagster opens a connection for each event it
    # stores, and at 4,096 iterations more than half of each connection's time goes into them.
    "--set=scram_iterations=1",
)
# fsync, full_page_writes and synchronous_commit stay as they are, on: a kill -9 must lose nothing acknowledged.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may be some 107 bytes long, and a data folder's path is longer soon.
    "unix_socket_directories": "",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
}


def cluster_folder(data_dir: Path) -> Path:
    """The folder of the cluster and of its password."""
    return data_dir / "postgres"


def prepared_program(host: Host, wheel: Wheel, data_dir: Path) -> Program:
    """The server of the cluster in `data_dir`, which is made first where there is none.

    Raises:
        EmbeddedServerError: the cluster cannot be made, or lacks its password.
        OwnerGoneError: nobody wants it any more.
    """
    folder = cluster_folder(data_dir)
    if not folder.exists():
        _make_cluster(host, wheel, data_dir)
    cluster = folder / "data"
    try:
        password = (folder / "password").read_text().strip()
    except OSError as error:
        raise EmbeddedServerError(
            f"Cannot read the password of the embedded PostgreSQL, {error.filename}: {error.strerror}. Run as the user "
            f"who owns {folder}, or remove that folder to begin anew without its data."
        ) from error
    _forget_reused_pid(cluster)
    postgres = wheel.program("postgres")

    def command(port: int) -> list[str]:
        settings = {**_SETTINGS, "port": str(port)}
        return [
            str(postgres),
            *("-D", _seen_from_inside(host, cluster)),
            *(argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")),
        ]

    return Program(
        name="PostgreSQL",
        command=command,
        standard_input=lambda _port: b"",
        folder=cluster,
        log=data_dir / "postgres.log",
        answers=lambda pid, _port: _is_ready(cluster, pid),
        stop_signal=signal.SIGINT,  # "fast": open transactions are rolled back, then a checkpoint
        password=password,
    )


def _make_cluster(host: Host, wheel: Wheel, data_dir: Path) -> None:
    # Made beside its place and renamed when whole, so that a kill -9 leaves nothing half made. The password lies in what
    # is renamed, so there is never the one without the other.
    unfinished = data_dir / "postgres.unfinished"
    log = data_dir / "postgres.log"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    made = (unfinished, unfinished / "data", unfinished / "password")
    for folder in made[:2]:
        folder.mkdir(mode=0o700)
    descriptor = os.open(made[2], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(24))
        file.flush()
        os.fsync(descriptor)
    if host.identity:
        for path in made:
            host.identity.give(path)
    command = [str(wheel.program("initdb")), "-D", _seen_from_inside(host, made[1]), *_INITDB_OPTIONS]
    making = spawn(host, command, made[1], log, signal.SIGKILL)
    try:
        while making.poll() is None:
            host.owner.sleep(0.01)
    finally:
        if making.poll() is None:
            os.killpg(making.pid, signal.SIGKILL)
            making.wait()
    if making.returncode != 0:
        raise EmbeddedServerError(f"PostgreSQL could not make its data folder in {data_dir}. initdb said:\n{tail(log)}")
    _sync_folder(unfinished)
    unfinished.rename(cluster_folder(data_dir))
    _sync_folder(data_dir)


def _seen_from_inside(host: Host, cluster: Path) -> str:
    # The servers' user may be unable to walk to the folder (it may lie under /root), but the server is put in it, and
    # Linux has a name for where a process is that needs no walk. "." will not do: PostgreSQL makes it absolute.
    return "/proc/self/cwd" if host.identity and sys.platform == "linux" else str(cluster)


def _is_ready(cluster: Path, pid: int) -> bool:
    try:
        said = (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(said) > 7 and said[0].strip() == str(pid) and said[7].strip() == "ready"


def _forget_reused_pid(cluster: Path) -> None:
    # After a restart of a container another program often has the number of the old server, and PostgreSQL would take it
    # for itself. Our claim on the folder says that no server of ours lives.
    left = cluster / "postmaster.pid"
    try:
        pid = int(left.read_text().split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return
    program = Path(f"/proc/{pid}/comm")
    if program.exists() and "postgres" not in program.read_text():
        left.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

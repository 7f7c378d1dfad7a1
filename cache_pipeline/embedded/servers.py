"""The public interface: servers that run for the duration of a `with` block, started only where no URL is given."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cache_pipeline.embedded.binaries import find_postgres_wheel, find_valkey_wheel
from cache_pipeline.embedded.data_folder import claim_folder
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.postgres import DATABASE, USER
from cache_pipeline.embedded.supervisor import LaunchRequest

logger = logging.getLogger(__name__)

# Isolated and without site-packages: the supervisor needs only the standard library and this package, and starts faster.
_PACKAGE_ROOT: Final = Path(__file__).parents[2]
_SUPERVISOR_CODE: Final = (
    "import sys; sys.path.append(sys.argv[1]); from cache_pipeline.embedded import supervisor; "
    "supervisor.main(supervisor.LaunchRequest.from_json(sys.argv[2]))"
)


@dataclass(frozen=True)
class EmbeddedServers:
    """The URLs of the servers. They contain passwords, so the repr does not show them.

    Attributes:
        postgres_url: The given URL, or `postgresql://user:password@127.0.0.1:port/cache_pipeline`.
        redis_url: The given URL, or `redis://:password@127.0.0.1:port/0`.
    """

    postgres_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@contextmanager
def embedded_servers(
    data_dir: Path, *, postgres_url: str | None = None, redis_url: str | None = None
) -> Generator[EmbeddedServers, None, None]:
    """Start each server that has no URL, and stop it when the block ends.

    PostgreSQL's data stays in `data_dir` between runs; Valkey starts empty. Both listen only on 127.0.0.1, with random
    passwords. They stop when the block ends and when this process ends, even by kill -9.

    Args:
        data_dir: A folder used by this process only, created if missing; not touched if both URLs are given.
        postgres_url: A PostgreSQL that already runs.
        redis_url: A Redis or Valkey that already runs.

    Raises:
        EmbeddedServerError: The wheels are not installed, the folder is in use or cannot be written, or a server did not
            start.
    """
    if postgres_url and redis_url:
        yield EmbeddedServers(postgres_url, redis_url)
        return
    request = LaunchRequest(
        owner=os.getpid(),
        data_dir=data_dir.absolute(),
        postgres=None if postgres_url else find_postgres_wheel(),
        valkey=None if redis_url else find_valkey_wheel(),
    )
    supervisor = subprocess.Popen(  # noqa: S603 -- our own module
        [sys.executable, "-I", "-S", "-c", _SUPERVISOR_CODE, str(_PACKAGE_ROOT), request.to_json()],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        message = _read_first_message(supervisor)
        if server := message.get("PostgreSQL"):
            postgres_url = f"postgresql://{USER}:{server['password']}@127.0.0.1:{server['port']}/{DATABASE}"
            _create_missing_database(postgres_url, request.data_dir)
        if server := message.get("Valkey"):
            redis_url = f"redis://:{server['password']}@127.0.0.1:{server['port']}/0"
        yield EmbeddedServers(postgres_url or "", redis_url or "")
    finally:
        # A forked child that leaves this block must not stop the servers.
        if os.getpid() == request.owner:
            _stop(supervisor, request)


def _read_first_message(supervisor: subprocess.Popen[bytes]) -> dict[str, Any]:
    output = supervisor.stdout
    line = output.readline() if output else b""
    try:
        message = json.loads(line)
    except ValueError:
        rest = output.read() if output else b""
        raise EmbeddedServerError(
            "The supervisor of the embedded servers ended during startup. Its output:\n"
            + ((line + rest).decode(errors="replace").strip() or "(nothing)")
        ) from None
    if "error" in message:
        raise EmbeddedServerError(message["error"])
    return message


def _create_missing_database(url: str, data_dir: Path) -> None:
    # Imported here because the supervisor imports this package too, without site-packages.
    import psycopg
    from psycopg import sql

    try:
        with psycopg.connect(url.removesuffix(DATABASE) + "postgres", autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    except psycopg.Error as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL of {data_dir} runs, but does not let its own user {USER} create the database "
            f"{DATABASE}: {error}. If its password was changed, write the new one in {data_dir}/postgres/password."
        ) from error


def _stop(supervisor: subprocess.Popen[bytes], request: LaunchRequest) -> None:
    if supervisor.stdin:
        supervisor.stdin.close()
    if supervisor.stdout:
        for line in supervisor.stdout:
            logger.warning("Embedded servers: %s", _parse_message(line))
        supervisor.stdout.close()
    if supervisor.wait() < 0:
        # The supervisor was killed: claiming the folder stops the servers that it left running.
        claim_folder(request.data_dir, request.owner, time.sleep).release()


def _parse_message(line: bytes) -> str:
    try:
        return json.loads(line)["error"]
    except (ValueError, KeyError, TypeError):
        return line.decode(errors="replace").rstrip()

"""The public face: servers for as long as a `with` block lasts, started only where no URL is given."""

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

from cache_pipeline.embedded.binaries import postgres_wheel, valkey_wheel
from cache_pipeline.embedded.data_folder import claim_folder
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.postgres import DATABASE, USER
from cache_pipeline.embedded.supervisor import Order

_logger = logging.getLogger(__name__)

# Isolated and without site-packages: the supervisor needs the standard library and this package, and comes up sooner.
_PACKAGE_ROOT: Final = Path(__file__).parents[2]
_SUPERVISE: Final = (
    "import sys; sys.path.append(sys.argv[1]); from cache_pipeline.embedded import supervisor; "
    "supervisor.main(supervisor.Order.from_text(sys.argv[2]))"
)


@dataclass(frozen=True)
class EmbeddedServers:
    """Where the servers are. URLs hold passwords, so they are not shown in a repr.

    Attributes:
        postgres_url: `postgresql://user:password@127.0.0.1:port/cache_pipeline`, or the URL that was given.
        redis_url: `redis://:password@127.0.0.1:port/0`, or the URL that was given.
    """

    postgres_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@contextmanager
def embedded_servers(
    data_dir: Path, *, postgres_url: str | None = None, redis_url: str | None = None
) -> Generator[EmbeddedServers, None, None]:
    """Start what no URL is given for, and stop it at the end.

    PostgreSQL's data is kept in `data_dir` between runs, Valkey starts empty. Both listen on 127.0.0.1 alone, with random
    passwords. They stop when the block ends and when this process ends, even by kill -9.

    Args:
        data_dir: a folder of this process's own, made where there is none; not touched where both URLs are given.
        postgres_url: a PostgreSQL that runs already.
        redis_url: a Redis or Valkey that runs already.

    Raises:
        EmbeddedServerError: the wheels are not installed, the folder is in use or cannot be written, or a server did not
            start.
    """
    if postgres_url and redis_url:
        yield EmbeddedServers(postgres_url, redis_url)
        return
    order = Order(
        owner=os.getpid(),
        data_dir=data_dir.absolute(),
        postgres=None if postgres_url else postgres_wheel(),
        valkey=None if redis_url else valkey_wheel(),
    )
    supervisor = subprocess.Popen(  # noqa: S603 -- our own module
        [sys.executable, "-I", "-S", "-c", _SUPERVISE, str(_PACKAGE_ROOT), order.to_text()],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said = _first_answer(supervisor)
        if server := said.get("PostgreSQL"):
            postgres_url = f"postgresql://{USER}:{server['password']}@127.0.0.1:{server['port']}/{DATABASE}"
            _create_missing_database(postgres_url, order.data_dir)
        if server := said.get("Valkey"):
            redis_url = f"redis://:{server['password']}@127.0.0.1:{server['port']}/0"
        yield EmbeddedServers(postgres_url or "", redis_url or "")
    finally:
        # A forked child that unwinds this block has no say in it.
        if os.getpid() == order.owner:
            _stop(supervisor, order)


def _first_answer(supervisor: subprocess.Popen[bytes]) -> dict[str, Any]:
    printed = supervisor.stdout
    line = printed.readline() if printed else b""
    try:
        said = json.loads(line)
    except ValueError:
        rest = printed.read() if printed else b""
        raise EmbeddedServerError(
            "The supervisor of the embedded servers ended before it had begun. It said:\n"
            + ((line + rest).decode(errors="replace").strip() or "(nothing)")
        ) from None
    if "error" in said:
        raise EmbeddedServerError(said["error"])
    return said


def _create_missing_database(url: str, data_dir: Path) -> None:
    # Here and not above: the supervisor imports this package too, without site-packages.
    import psycopg
    from psycopg import sql

    try:
        with psycopg.connect(url.removesuffix(DATABASE) + "postgres", autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    except psycopg.Error as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL of {data_dir} runs, but does not let its own user {USER} make the database "
            f"{DATABASE}: {error}. If its password was changed, write the new one in {data_dir}/postgres/password."
        ) from error


def _stop(supervisor: subprocess.Popen[bytes], order: Order) -> None:
    if supervisor.stdin:
        supervisor.stdin.close()
    if supervisor.stdout:
        for line in supervisor.stdout:
            _logger.warning("Embedded servers: %s", _message(line))
        supervisor.stdout.close()
    if supervisor.wait() < 0:
        # Somebody killed it: to claim the folder is to stop what it left behind.
        claim_folder(order.data_dir, order.owner, time.sleep).release()


def _message(line: bytes) -> str:
    try:
        return json.loads(line)["error"]
    except (ValueError, KeyError, TypeError):
        return line.decode(errors="replace").rstrip()

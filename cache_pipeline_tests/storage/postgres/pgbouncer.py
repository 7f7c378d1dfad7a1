"""A PgBouncer in transaction mode in front of a PostgreSQL server, as managed services put one in front of theirs."""

import os
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

from cache_pipeline_tests.programs import find_program

#: Fewer than the connections that the clients open, so that each client meets the sessions that others have used.
_SERVER_CONNECTIONS = 3


@contextmanager
def pgbouncer(folder: Path, postgres_url: str) -> Generator[str]:
    """Run a PgBouncer for the database of a URL; yield the URL of the same database behind it."""
    server = conninfo_to_dict(postgres_url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(mode=0o755)
    config, log = folder / "pgbouncer.ini", folder / "log"
    config.write_text(
        f"[databases]\n* = host={server['host']} port={server['port']} user={server['user']}"
        f" password={server.get('password', '')}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = {_SERVER_CONNECTIONS}\nmax_client_conn = 200\n"
    )
    # It refuses to run as root, and reads its configuration before it changes the user.
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    with log.open("wb") as output:
        process = subprocess.Popen([find_program("pgbouncer"), *user, str(config)], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        parts = urlsplit(postgres_url)
        yield urlunsplit(parts._replace(netloc=f"{server['user']}:any@127.0.0.1:{port}"))
    finally:
        process.terminate()
        process.wait()

"""A temporary RabbitMQ node on loopback for the benchmark."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.api.servers import free_port
from benchmarks.result import BenchmarkError

_TIMEOUT_SECONDS = 90.0
# Bypass the distribution's wrapper, which would switch to another user.
_PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


@contextmanager
def rabbitmq(folder: Path) -> Generator[str]:
    """Run a node while the block lasts and yield its URL.

    Raises:
        BenchmarkError: RabbitMQ is not installed or does not start.
    """
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise BenchmarkError("RabbitMQ is not installed: .ci/run shows what to install")
    port, distribution, names = free_port(), free_port(), free_port()
    folder.mkdir()
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\nvm_memory_high_watermark.absolute = 512MB\n"
        "disk_free_limit.absolute = 10MB\n"
    )
    (folder / "plugins").write_text("[].")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"benchmark{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [program], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for(port, process)
        yield f"amqp://guest:guest@127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 10
        # epmd refuses to stop while it still believes that the killed node is alive.
        while subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False).returncode:  # noqa: S607
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if connection.recv(1):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise BenchmarkError("RabbitMQ did not start")

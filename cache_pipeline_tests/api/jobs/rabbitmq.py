"""A RabbitMQ node for one test, with its own ports, data and name service; it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from cache_pipeline_tests.programs import find_program

# The server itself instead of the distribution's wrapper, which would switch to another user.
BROKERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


def _free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class RabbitMQ:
    """A node that can be killed and restarted on the same data."""

    def __init__(self, folder: Path) -> None:
        self._server = find_program(*BROKERS)
        self.port, distribution, epmd = _free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        folder.mkdir()
        config = folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = false\nvm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 10MB\n"
        )
        (folder / "plugins").write_text("[].")
        cookie = folder / ".erlang.cookie"
        cookie.write_text("cookieoftestsalone")
        cookie.chmod(0o400)
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self._log = folder / "output"
        self._process = None

    def start(self, seconds=60):
        """Start the node and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._server],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while True:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"AMQP\x00\x00\x09\x01")
                    connection.settimeout(2)
                    if connection.recv(1):
                        return
            except OSError:
                pass
            time.sleep(0.2)

    def kill(self):
        """Kill the node and all its child processes with SIGKILL."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self):
        """Stop the node and its name service."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        deadline = time.monotonic() + 10
        # The name service refuses while it still considers the killed node alive.
        while subprocess.run(["epmd", "-kill"], env=self._environment, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)


@contextmanager
def running_rabbitmq(folder: Path):
    """Run a node while the block lasts."""
    node = RabbitMQ(folder)
    try:
        node.start()
        yield node
    finally:
        node.stop()

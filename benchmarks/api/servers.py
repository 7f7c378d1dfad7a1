"""Server processes of a benchmark: a function in a child process, and an nginx that caches."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.result import BenchmarkError

_TIMEOUT_SECONDS = 60.0


@contextmanager
def run_in_process(target: Callable[..., None], *arguments: Any) -> Generator["ChildProcess"]:
    """Run a function in a child process while the block lasts.

    The function gets a pipe as its last argument and sends one message when it is ready.

    Raises:
        BenchmarkError: The process ended or sent no message in time.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, child_end = spawn.Pipe()
    process = spawn.Process(target=target, args=(*arguments, child_end), daemon=True)
    process.start()
    child_end.close()
    try:
        yield ChildProcess(process.pid or 0, _receive(receiver, target.__name__))
    finally:
        process.terminate()
        process.join()
        receiver.close()


class ChildProcess:
    """A child process that is ready.

    Attributes:
        pid: Process id.
        message: What it sent when it was ready, such as its URL.
    """

    def __init__(self, pid: int, message: str) -> None:
        self.pid = pid
        self.message = message

    def cpu_seconds(self) -> float | None:
        """Return the CPU time used so far, or None if the system does not report it."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _receive(pipe: Connection, name: str) -> str:
    try:
        if pipe.poll(_TIMEOUT_SECONDS):
            return pipe.recv()
    except (EOFError, OSError):
        raise BenchmarkError(f"{name} ended early; see its output above") from None
    raise BenchmarkError(f"{name} sent nothing for {_TIMEOUT_SECONDS:.0f} s; is the machine overloaded?")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_NGINX = """\
master_process off; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache keys_zone=answers:10m;
  upstream api {{ server {upstream}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache answers; proxy_cache_lock on; proxy_cache_use_stale updating error; proxy_cache_background_update on;
    }}
  }}
}}
"""


@contextmanager
def nginx_cache(folder: Path, upstream: str) -> Generator[str | None]:
    """Run an nginx that caches what the API allows; yield None if nginx is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream.removeprefix("http://"), port=port))
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(config)])  # noqa: S603
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url + "/healthz")
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise BenchmarkError(f"nothing answers at {url}")
        time.sleep(0.1)

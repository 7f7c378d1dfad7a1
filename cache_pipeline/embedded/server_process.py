"""Start a server process detached from the terminal, wait until it is ready, and stop it cleanly."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.data_folder import Claim, RecordedProcess
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.owner import Owner
from cache_pipeline.embedded.server_user import Identity, popen_arguments

_READY_TIMEOUT_SECONDS: Final = 60.0
_STOP_TIMEOUT_SECONDS: Final = 20.0
_QUIT_TIMEOUT_SECONDS: Final = 6.0
_MAX_PORT_ATTEMPTS: Final = 5
_MAX_LOG_LINES: Final = 15
# Our own environment (PGDATA, PGPORT, a locale) must not influence a server.
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class LaunchContext:
    """What every child process of a supervisor needs."""

    claim: Claim
    owner: Owner
    identity: Identity | None


@dataclass(frozen=True)
class Program:
    """How to run a server.

    Attributes:
        name: The server's name in messages.
        command: Returns the command line for a port.
        standard_input: Returns the standard input for a port.
        folder: The working directory.
        log: The file that receives its output.
        is_ready: Returns whether the process with this process id is ready on this port.
        stop_signal: The signal that makes it stop cleanly.
        password: The server's password; removed from every error message.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    standard_input: Callable[[int], bytes]
    folder: Path
    log: Path
    is_ready: Callable[[int, int], bool]
    stop_signal: signal.Signals
    password: str


@dataclass(frozen=True)
class Server:
    """A server that was started on a port of 127.0.0.1."""

    program: Program
    process: subprocess.Popen[bytes]
    port: int


def spawn(
    context: LaunchContext,
    command: Sequence[str],
    folder: Path,
    log: Path,
    stop_signal: signal.Signals,
    standard_input: bytes = b"",
) -> subprocess.Popen[bytes]:
    """Start a program as the servers' user, in its own session so that Ctrl-C does not reach it.

    Args:
        context: The supervisor's claim, owner and server user.
        command: The program's full path and its arguments, none of them secret.
        folder: The working directory. We enter it as ourselves, so the program's user need not be able to reach it by path.
        log: Receives the program's output; truncated first.
        stop_signal: The signal with which the next claim stops it if we are killed.
        standard_input: The bytes written to its standard input.

    Raises:
        EmbeddedServerError: The system does not let us run it.
    """
    log_descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 -- a program of an installed wheel
            command,
            cwd=folder,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=log_descriptor,
            stderr=log_descriptor,
            pass_fds=(context.claim.descriptor,),
            start_new_session=True,
            umask=0o077,
            **popen_arguments(context.identity),
        )
    except OSError as error:
        user = f" as user {context.identity.name}" if context.identity else ""
        raise EmbeddedServerError(f"Cannot run {command[0]}{user} in {folder}: {error.strerror}.") from error
    finally:
        os.close(log_descriptor)
    context.claim.record(RecordedProcess(process.pid, Path(command[0]).name, stop_signal))
    if process.stdin:
        try:
            process.stdin.write(standard_input)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it exited during startup: its log says why
    return process


def start(context: LaunchContext, program: Program) -> Server:
    """Start a server on a port that is free now; `await_ready` notices if another process took the port."""
    port = find_free_port()
    process = spawn(
        context, program.command(port), program.folder, program.log, program.stop_signal, program.standard_input(port)
    )
    return Server(program, process, port)


def await_ready(context: LaunchContext, servers: list[Server]) -> None:
    """Wait until every server is ready; restart a server whose port was taken, and replace it in the list.

    Raises:
        EmbeddedServerError: A server exited or never became ready; the message contains the end of its log.
        OwnerGoneError: The owner ended meanwhile.
    """
    for index in range(len(servers)):
        ports_tried = 1
        while not _wait_until_ready(context, servers[index]):
            if ports_tried == _MAX_PORT_ATTEMPTS or "Address already in use" not in read_log_tail(
                servers[index].program
            ):
                raise EmbeddedServerError(describe_exit(servers[index]))
            servers[index] = start(context, servers[index].program)
            ports_tried += 1


def _wait_until_ready(context: LaunchContext, server: Server) -> bool:
    deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
    while server.process.poll() is None:
        if server.program.is_ready(server.process.pid, server.port):
            return True
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"{server.program.name} was not ready within {_READY_TIMEOUT_SECONDS:.0f} s. Its log, "
                f"{server.program.log}, ends:\n{read_log_tail(server.program)}"
            )
        context.owner.sleep(0.01)
    return False


def stop(servers: Sequence[Server]) -> None:
    """Stop all servers cleanly and in parallel; kill those that do not stop in time.

    Killing is safe even for PostgreSQL: acknowledged data is on disk.
    """
    for server in servers:
        server.process.send_signal(server.program.stop_signal)
    for server in servers:
        try:
            server.process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(server.process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # On SIGQUIT PostgreSQL stops its child processes too; SIGKILL would leave them running.
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(_QUIT_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def describe_exit(server: Server) -> str:
    """Describe how a server that was not stopped has ended."""
    code = server.process.returncode
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return (
        f"{server.program.name} ended unexpectedly ({how}). Its log, {server.program.log}, ends:\n"
        f"{read_log_tail(server.program)}"
    )


def read_log_tail(program: Program) -> str:
    """Return the last lines of a server's log, without its password."""
    return read_tail(program.log).replace(program.password, "***")


def read_tail(log: Path) -> str:
    """Return the last lines of a log file."""
    with log.open("rb") as lines:
        lines.seek(max(0, log.stat().st_size - 8192))
        text = lines.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-_MAX_LOG_LINES:]).strip() or "(nothing)"


def find_free_port() -> int:
    """Find a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""One server process: spawned apart from the terminal, awaited until it answers, stopped in order."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.data_folder import Claim, LeftProcess
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.owner import Owner
from cache_pipeline.embedded.server_user import Identity, popen_arguments

_READY_WITHIN_SECONDS: Final = 60.0
_STOPPED_WITHIN_SECONDS: Final = 20.0
_FORCED_WITHIN_SECONDS: Final = 6.0
_PORTS_TRIED: Final = 5
_LOG_LINES_TOLD: Final = 15
# Nothing of ours may steer a server: PGDATA, PGPORT, a locale.
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Host:
    """What every child of a supervisor needs."""

    claim: Claim
    owner: Owner
    identity: Identity | None


@dataclass(frozen=True)
class Program:
    """How a server is run.

    Attributes:
        name: what it is called in messages.
        command: the command line for a port.
        standard_input: what it reads at its start, for a port.
        folder: where it runs.
        log: the file that takes what it prints.
        answers: whether the process with this pid is ready, on this port.
        stop_signal: what makes it stop in order.
        password: never told in an error.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    standard_input: Callable[[int], bytes]
    folder: Path
    log: Path
    answers: Callable[[int, int], bool]
    stop_signal: signal.Signals
    password: str


@dataclass(frozen=True)
class Server:
    """A server that was started on a port of 127.0.0.1."""

    program: Program
    process: subprocess.Popen[bytes]
    port: int


def spawn(
    host: Host, command: Sequence[str], folder: Path, log: Path, stop_signal: signal.Signals, given: bytes = b""
) -> subprocess.Popen[bytes]:
    """Start a program as the servers' user, in a session of its own so that a Ctrl-C does not reach it.

    Args:
        host: the supervisor's claim and user.
        command: the program's full path and its arguments, none of them secret.
        folder: its working directory; entered as ourselves, so its user need not be able to walk there.
        log: takes what it prints; emptied first.
        stop_signal: what stops it, should we be killed.
        given: its standard input.

    Raises:
        EmbeddedServerError: the system does not let us run it.
    """
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 -- a program of an installed wheel
            command,
            cwd=folder,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            pass_fds=(host.claim.descriptor,),
            start_new_session=True,
            umask=0o077,
            **popen_arguments(host.identity),
        )
    except OSError as error:
        user = f" as user {host.identity.name}" if host.identity else ""
        raise EmbeddedServerError(f"Cannot run {command[0]}{user} in {folder}: {error.strerror}.") from error
    finally:
        os.close(printed)
    host.claim.record(LeftProcess(process.pid, Path(command[0]).name, stop_signal))
    if process.stdin:
        try:
            process.stdin.write(given)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at its start: its log says why
    return process


def start(host: Host, program: Program) -> Server:
    """Start a server on a port that is free now; `await_ready` says whether it got it."""
    port = free_port()
    process = spawn(
        host, program.command(port), program.folder, program.log, program.stop_signal, program.standard_input(port)
    )
    return Server(program, process, port)


def await_ready(host: Host, servers: list[Server]) -> None:
    """Wait until every server answers; one whose port was taken in between is replaced in the list.

    Raises:
        EmbeddedServerError: one died or never answered; the end of its log is told.
        OwnerGoneError: nobody wants them any more.
    """
    for place in range(len(servers)):
        ports_tried = 1
        while not _answers_in_time(host, servers[place]):
            if ports_tried == _PORTS_TRIED or "Address already in use" not in log_tail(servers[place].program):
                raise EmbeddedServerError(died(servers[place]))
            servers[place] = start(host, servers[place].program)
            ports_tried += 1


def _answers_in_time(host: Host, server: Server) -> bool:
    deadline = time.monotonic() + _READY_WITHIN_SECONDS
    while server.process.poll() is None:
        if server.program.answers(server.process.pid, server.port):
            return True
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"{server.program.name} did not answer within {_READY_WITHIN_SECONDS:.0f} s. Its log, "
                f"{server.program.log}, ends:\n{log_tail(server.program)}"
            )
        host.owner.sleep(0.01)
    return False


def stop(servers: Sequence[Server]) -> None:
    """Stop servers in order, all at once; one that does not stop in time is made to.

    Even killing is safe for PostgreSQL: what it acknowledged is on disk.
    """
    for server in servers:
        server.process.send_signal(server.program.stop_signal)
    for server in servers:
        try:
            server.process.wait(_STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            _force(server.process)


def _force(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGQUIT)  # PostgreSQL takes its children with it, which SIGKILL would leave
    try:
        process.wait(_FORCED_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def died(server: Server) -> str:
    """What to say of a server that ended by itself."""
    code = server.process.returncode
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return (
        f"{server.program.name} ended by itself ({how}). Its log, {server.program.log}, ends:\n"
        f"{log_tail(server.program)}"
    )


def log_tail(program: Program) -> str:
    """The last lines that a server printed, without its password."""
    return tail(program.log).replace(program.password, "***")


def tail(log: Path) -> str:
    """The last lines of a log."""
    with log.open("rb") as lines:
        lines.seek(max(0, log.stat().st_size - 8192))
        text = lines.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-_LOG_LINES_TOLD:]).strip() or "(nothing)"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

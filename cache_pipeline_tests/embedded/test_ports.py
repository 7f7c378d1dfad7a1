"""A port that somebody takes between our choosing it and the server's binding it costs a retry, no more."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from cache_pipeline.embedded import EmbeddedServerError, postgres, valkey
from cache_pipeline.embedded import server_process as process
from cache_pipeline.embedded.binaries import postgres_wheel, valkey_wheel
from cache_pipeline.embedded.data_folder import claim_folder
from cache_pipeline.embedded.owner import Owner
from cache_pipeline.embedded.server_process import Host, await_ready, start, stop
from cache_pipeline.embedded.server_user import server_identity


@pytest.fixture
def host(kept_folder: Path) -> Iterator[Host]:
    """What a supervisor of the kept folder gives its servers, in this process."""
    reading, writing = os.pipe()
    owner = Owner(os.getppid(), reading)
    claim = claim_folder(kept_folder, os.getpid(), owner.sleep)
    yield Host(claim, owner, server_identity(kept_folder / "postgres"))
    claim.release()
    os.close(writing)
    os.close(reading)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        yield stranger.getsockname()[1]


def test_both_servers_move_to_another_port(
    host: Host, kept_folder: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(process, "free_port", lambda: taken_port)
        servers = [
            start(host, valkey.prepared_program(host, valkey_wheel(), kept_folder)),
            start(host, postgres.prepared_program(host, postgres_wheel(), kept_folder)),
        ]
    assert [server.port for server in servers] == [taken_port, taken_port]
    try:
        await_ready(host, servers)
        assert taken_port not in [server.port for server in servers]
        with redis.Redis(port=servers[0].port, password=servers[0].program.password) as client:
            assert client.ping() is True
    finally:
        stop(servers)


def test_a_machine_without_free_ports_is_told(
    host: Host, kept_folder: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "free_port", lambda: taken_port)
    program = replace(valkey.prepared_program(host, valkey_wheel(), kept_folder), answers=lambda _pid, _port: False)
    servers = [start(host, program)]
    with pytest.raises(EmbeddedServerError, match="Address already in use"):
        await_ready(host, servers)
    stop(servers)

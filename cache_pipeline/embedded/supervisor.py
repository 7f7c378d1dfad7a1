"""The supervisor process: starts the servers, reports their ports, and stops them when its owner has ended.

It is a separate process so that the servers stop cleanly even if the program that needs them is killed with -9.
"""

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cache_pipeline.embedded import postgres, valkey
from cache_pipeline.embedded.binaries import Wheel, ensure_reachable
from cache_pipeline.embedded.data_folder import claim_folder
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.owner import Owner, OwnerGoneError
from cache_pipeline.embedded.server_process import LaunchContext, Server, await_ready, describe_exit, start, stop
from cache_pipeline.embedded.server_user import find_server_identity


@dataclass(frozen=True)
class LaunchRequest:
    """Which servers to run, for which process and in which folder; None for a server that is not needed."""

    owner: int
    data_dir: Path
    postgres: Wheel | None
    valkey: Wheel | None

    def to_json(self) -> str:
        """Serialise the request to one command-line argument; it contains no secret."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`."""
        fields = json.loads(text)
        wheels = {server: _parse_wheel(fields[server]) if fields[server] else None for server in ("postgres", "valkey")}
        return cls(fields["owner"], Path(fields["data_dir"]), **wheels)


def _parse_wheel(fields: dict[str, Any]) -> Wheel:
    return Wheel(fields["server"], Path(fields["package"]), tuple(fields["programs"]), fields["url_variable"])


def main(request: LaunchRequest) -> None:
    """Run the requested servers until their owner ends, and write messages as lines of JSON to standard output.

    The first message is `{"PostgreSQL": {"port", "password"}, "Valkey": ...}` or `{"error"}`; each later one is `{"error"}`
    for a server that ended unexpectedly.
    """
    owner = Owner(request.owner, sys.stdin.fileno())
    owner.install_signal_handlers()
    try:
        _run(request, owner)
    except OwnerGoneError:
        pass
    except EmbeddedServerError as error:
        _report({"error": str(error)})
    except OSError as error:  # a full disk, a file system that cannot change owners
        _report({"error": f"The embedded servers cannot use the data folder {request.data_dir}: {error}."})


def _run(request: LaunchRequest, owner: Owner) -> None:
    claim = claim_folder(request.data_dir, request.owner, owner.sleep)
    servers: list[Server] = []
    try:
        identity = find_server_identity(postgres.cluster_folder(request.data_dir))
        context = LaunchContext(claim, owner, identity)
        requested = [wheel for wheel in (request.valkey, request.postgres) if wheel]
        runnable = {wheel.server: wheel for wheel in ensure_reachable(requested, identity, claim.record_copy)}
        # Valkey first: it starts while PostgreSQL creates its cluster.
        if wheel := runnable.get("Valkey"):
            servers.append(start(context, valkey.prepare_program(context, wheel, request.data_dir)))
        if wheel := runnable.get("PostgreSQL"):
            servers.append(start(context, postgres.prepare_program(context, wheel, request.data_dir)))
        await_ready(context, servers)
        _report({server.program.name: {"port": server.port, "password": server.program.password} for server in servers})
        _watch(owner, servers)
    finally:
        claim.mark_stopping()
        stop(servers)
        claim.release()


def _watch(owner: Owner, servers: list[Server]) -> None:
    running = list(servers)
    while True:
        owner.sleep(1.0)
        for server in [server for server in running if server.process.poll() is not None]:
            running.remove(server)
            _report({"error": describe_exit(server)})


def _report(message: object) -> None:
    # The owner may have ended, and no other process reads these messages.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")

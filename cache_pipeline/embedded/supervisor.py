"""The process that owns the servers: starts them, says where they are, and stops them when its own owner has gone.

It is a process of its own so that they stop in order even when the program that wanted them is killed with -9.
"""

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cache_pipeline.embedded import postgres, valkey
from cache_pipeline.embedded.binaries import Wheel, reachable_wheels
from cache_pipeline.embedded.data_folder import claim_folder
from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.owner import Owner, OwnerGoneError
from cache_pipeline.embedded.server_process import Host, Server, await_ready, died, start, stop
from cache_pipeline.embedded.server_user import server_identity


@dataclass(frozen=True)
class Order:
    """What a supervisor is asked for; None for a server that is not wanted."""

    owner: int
    data_dir: Path
    postgres: Wheel | None
    valkey: Wheel | None

    def to_text(self) -> str:
        """The order as one command-line argument; nothing in it is secret."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The order that `to_text` wrote."""
        said = json.loads(text)
        wheels = {server: _wheel(said[server]) if said[server] else None for server in ("postgres", "valkey")}
        return cls(said["owner"], Path(said["data_dir"]), **wheels)


def _wheel(said: dict[str, Any]) -> Wheel:
    return Wheel(said["server"], Path(said["package"]), tuple(said["programs"]), said["url_variable"])


def main(order: Order) -> None:
    """Run the servers of an order until its owner has gone, saying each thing as one line of JSON on standard output.

    First `{"PostgreSQL": {"port", "password"}, "Valkey": ...}` or `{"error"}`; later `{"error"}` for a server that ended
    by itself.
    """
    owner = Owner(order.owner, sys.stdin.fileno())
    owner.obey_signals()
    try:
        _run(order, owner)
    except OwnerGoneError:
        pass
    except EmbeddedServerError as error:
        _say({"error": str(error)})
    except OSError as error:  # a full disk, a file system that cannot change owners
        _say({"error": f"The embedded servers cannot use the data folder {order.data_dir}: {error}."})


def _run(order: Order, owner: Owner) -> None:
    claim = claim_folder(order.data_dir, order.owner, owner.sleep)
    servers: list[Server] = []
    try:
        identity = server_identity(postgres.cluster_folder(order.data_dir))
        host = Host(claim, owner, identity)
        wanted = [wheel for wheel in (order.valkey, order.postgres) if wheel]
        runnable = {wheel.server: wheel for wheel in reachable_wheels(wanted, identity, claim.record_copy)}
        # Valkey first: it comes up while PostgreSQL makes its cluster.
        if wheel := runnable.get("Valkey"):
            servers.append(start(host, valkey.prepared_program(host, wheel, order.data_dir)))
        if wheel := runnable.get("PostgreSQL"):
            servers.append(start(host, postgres.prepared_program(host, wheel, order.data_dir)))
        await_ready(host, servers)
        _say({server.program.name: {"port": server.port, "password": server.program.password} for server in servers})
        _watch(owner, servers)
    finally:
        claim.mark_stopping()
        stop(servers)
        claim.release()


def _watch(owner: Owner, servers: list[Server]) -> None:
    living = list(servers)
    while True:
        owner.sleep(1.0)
        for server in [server for server in living if server.process.poll() is not None]:
            living.remove(server)
            _say({"error": died(server)})


def _say(message: object) -> None:
    # The owner may be gone, and there is nobody else to tell.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")

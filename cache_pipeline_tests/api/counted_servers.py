"""Counts what a piece of code asks of PostgreSQL and Redis, on the wire and whatever driver it uses."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis

_TRANSACTION_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK")


@dataclass
class PostgresProxy:
    """Forwards connections to a PostgreSQL server, and notes the statements that are executed.

    Attributes:
        url: The URL of the proxy.
        statements: Each executed statement: its text if it was sent with it, else "prepared".
    """

    url: str = ""
    statements: list[str] = field(default_factory=list)

    async def forward(self, upstream: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        parts = urlsplit(upstream)
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        answers = asyncio.create_task(_copy(server_reader, writer))
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                # Only the first messages have no type: a request for encryption, which is refused, and the startup.
                size, code = 0, 0
                while code != 3 << 16:
                    head = await reader.readexactly(8)
                    size, code = int.from_bytes(head[:4]), int.from_bytes(head[4:])
                    server_writer.write(head + await reader.readexactly(size - 8))
                while True:
                    head = await reader.readexactly(5)
                    body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
                    self._note(head[:1], body)
                    server_writer.write(head + body)
        finally:
            server_writer.close()
            await answers
            writer.close()

    def _note(self, kind: bytes, body: bytes) -> None:
        text = body.rstrip(b"\0").decode(errors="replace").strip()
        if kind == b"Q" and not text.upper().startswith(_TRANSACTION_CONTROL):
            self.statements.append(text)
        elif kind == b"E":
            self.statements.append("prepared")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextmanager
def counted_postgres(url: str) -> Iterator[PostgresProxy]:
    """Run a proxy in front of a server while the block lasts, in a thread of its own: some drivers block their loop."""
    proxy, parts = PostgresProxy(), urlsplit(url)
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        server = await asyncio.start_server(lambda *streams: proxy.forward(url, *streams), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        credentials = parts.netloc.rpartition("@")[0]
        proxy.url = urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{port}", query="sslmode=disable"))
        ready.set()
        await stopped.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


@asynccontextmanager
async def watched_redis(url: str) -> AsyncIterator[list[str]]:
    """Collect every command that clients send to a server while the block lasts; those inside of scripts are left out."""
    commands: list[str] = []

    async def watch() -> None:
        async with client.monitor() as monitor:
            started.set()
            async for command in monitor.listen():
                commands.extend([command["command"]] if command["client_type"] != "lua" else [])

    started = asyncio.Event()
    async with Redis.from_url(url) as client, Redis.from_url(url) as marker:
        watching = asyncio.create_task(watch())
        await started.wait()
        try:
            yield commands
            # The server reports commands in their order, so once this one is reported all others have been.
            async with asyncio.timeout(20):
                await marker.echo("end of the block")
                while not any("end of the block" in each for each in commands):  # noqa: ASYNC110 - set by another task
                    await asyncio.sleep(0.01)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

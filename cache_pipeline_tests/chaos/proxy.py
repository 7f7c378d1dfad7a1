"""A TCP proxy on loopback that can delay, stall or cut the connections between a client and a server."""

import asyncio
import contextlib


class TcpProxy:
    """A proxy in front of one server.

    Attributes:
        name: Name of the server.
        port: Port where clients connect.
        dropped: Number of connections that were aborted.
    """

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.port = 0
        self.dropped = 0
        self._target_port = target_port
        self._delay = 0.0
        self._is_cut = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._handling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, the first time on a free port, after `refuse` on the same port again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse connections until `start`, as the machine of a server that does not run does."""
        if self._server is not None:
            self._server.close()
        self._drop_connections()

    def lead_to(self, port: int) -> None:
        """Lead to another server from now on, as an address that is moved in a failover does."""
        self._target_port = port
        self._drop_connections()

    def cut(self) -> None:
        """Abort every connection, including new ones, until `restore`."""
        self._is_cut = True
        self._drop_connections()

    def stall(self) -> None:
        """Accept connections and bytes but forward nothing until `restore`."""
        self._passing.clear()

    def slow(self, seconds: float) -> None:
        """Delay every chunk of bytes by so many seconds."""
        self._delay = seconds

    def restore(self) -> None:
        """Forward everything again. Connections that were stalled are aborted, as after a change of route."""
        if not self._passing.is_set():
            self._drop_connections()
        self._is_cut, self._delay = False, 0.0
        self._passing.set()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._handling):
            task.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)

    def _drop_connections(self) -> None:
        self.dropped += len(self._open) // 2
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        if task is not None:
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        self._open.add(writer)
        server: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._passing.wait()
            response, server = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._open.add(server)
            pumps = [asyncio.create_task(self._pump(reader, server)), asyncio.create_task(self._pump(response, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # The side that closed may still have bytes on their way to the other.
            await asyncio.wait(pumps, timeout=0.2)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, server):
                if each is not None:
                    self._open.discard(each)
                    each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

"""A TCP proxy on loopback between a client and a server: it lets pass, slows down, holds back or breaks off."""

import asyncio
import contextlib


class Link:
    """One proxied address.

    Attributes:
        name: of what is behind it.
        port: where clients connect.
        lost: connections that were broken off.
    """

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.port = 0
        self.lost = 0
        self._target_port = target_port
        self._delay = 0.0
        self._is_cut = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._handling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break off every connection, and every one that comes, until mended."""
        self._is_cut = True
        self._break_off()

    def stall(self) -> None:
        """Take connections and bytes, and pass nothing on, until mended."""
        self._passing.clear()

    def slow(self, seconds: float) -> None:
        """Pass every piece on so much later."""
        self._delay = seconds

    def mend(self) -> None:
        """Let everything pass; what was held back is lost with its connection, as after a route has changed."""
        if not self._passing.is_set():
            self._break_off()
        self._is_cut, self._delay = False, 0.0
        self._passing.set()

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._handling):
            task.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)

    def _break_off(self) -> None:
        self.lost += len(self._open) // 2
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
        there: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._passing.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._open.add(there)
            pumps = [asyncio.create_task(self._pump(reader, there)), asyncio.create_task(self._pump(back, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # Whoever closed may still have bytes on their way to the other side.
            await asyncio.wait(pumps, timeout=0.2)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, there):
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

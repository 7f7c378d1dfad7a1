"""What the proxies do to a connection."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from cache_pipeline_tests.chaos.proxy import Link


@asynccontextmanager
async def linked():
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link("echo", server.sockets[0].getsockname()[1])
    await link.start()
    try:
        yield link
    finally:
        await link.close()
        server.close()


async def said(link, seconds=5):
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        writer.write(b"hello")
        async with asyncio.timeout(seconds):
            return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_a_link_passes_everything_on():
    async with linked() as link:
        assert await said(link) == b"hello"


async def test_a_cut_link_refuses_until_it_is_mended():
    async with linked() as link:
        link.cut()
        assert not await said(link)
        link.mend()
        assert await said(link) == b"hello"


async def test_a_stalled_link_takes_bytes_and_passes_none_on():
    async with linked() as link:
        link.stall()
        with pytest.raises(TimeoutError):
            await said(link, 0.2)
        link.mend()
        assert await said(link) == b"hello"


async def test_a_slow_link_passes_each_piece_on_later():
    async with linked() as link:
        link.slow(0.1)
        began = asyncio.get_running_loop().time()
        assert await said(link) == b"hello"
        assert asyncio.get_running_loop().time() - began >= 0.2

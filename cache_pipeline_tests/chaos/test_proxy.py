"""Tests for the proxy that delays, stalls and cuts connections."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from cache_pipeline_tests.chaos.proxy import TcpProxy


@asynccontextmanager
async def echo_proxy():
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = TcpProxy("echo", server.sockets[0].getsockname()[1])
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


async def send_hello(proxy, seconds=5):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        async with asyncio.timeout(seconds):
            return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_proxy_forwards_bytes():
    async with echo_proxy() as proxy:
        assert await send_hello(proxy) == b"hello"


async def test_cut_proxy_aborts_connections_until_restored():
    async with echo_proxy() as proxy:
        proxy.cut()
        assert not await send_hello(proxy)
        proxy.restore()
        assert await send_hello(proxy) == b"hello"


async def test_stalled_proxy_forwards_nothing_until_restored():
    async with echo_proxy() as proxy:
        proxy.stall()
        with pytest.raises(TimeoutError):
            await send_hello(proxy, 0.2)
        proxy.restore()
        assert await send_hello(proxy) == b"hello"


async def test_slow_proxy_delays_each_chunk():
    async with echo_proxy() as proxy:
        proxy.slow(0.1)
        began = asyncio.get_running_loop().time()
        assert await send_hello(proxy) == b"hello"
        assert asyncio.get_running_loop().time() - began >= 0.2

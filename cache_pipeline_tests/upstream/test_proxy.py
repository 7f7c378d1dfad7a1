"""Requests to a vendor through the proxy of its account, and around every other."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import redis.asyncio
from pydantic import SecretStr, ValidationError

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.errors import UpstreamUnreachable
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.http import httpx

PASSWORD = "a-proxy-password-5e1"
ONE_ATTEMPT = RetryPolicy(max_attempts=1)


@dataclass
class Proxy:
    """A forward proxy on loopback that needs a password and records the first line of each request."""

    url: str = ""
    seen: list[str] = field(default_factory=list[str])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(head.split(b"\r\n")[0].decode())
                wanted = b"Basic " + base64.b64encode(f"user:{PASSWORD}".encode())
                if wanted not in head or head.startswith(b"CONNECT"):
                    status = b"502 Bad Gateway" if wanted in head else b"407 Proxy Authentication Required"
                    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
                    continue
                writer.write(await self._forward(head, reader))
                await writer.drain()
        writer.close()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:] if line]
        headers = {name.decode().lower(): value.decode() for name, _, value in lines}
        method, url, _ = head.split(b"\r\n")[0].decode().split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        kept = {name: value for name, value in headers.items() if not name.startswith("proxy-")}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(method, url, content=body, headers={**kept, "accept-encoding": "identity"})
        passed = "".join(
            f"{name}: {value}\r\n"
            for name, value in answer.headers.items()
            if name not in ("content-length", "transfer-encoding", "connection")
        )
        first = f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}\r\n"
        return f"{first}{passed}content-length: {len(answer.content)}\r\n\r\n".encode() + answer.content


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    found = Proxy()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://user:{PASSWORD}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield found
    server.close()


def deployment(url: str, proxy: str | None) -> Settings:
    account = VendorAccount(
        base_url=url,  # pyright: ignore[reportArgumentType]
        login_url=f"{url}/oauth/token",  # pyright: ignore[reportArgumentType]
        clients=(ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret")),),
        proxy=SecretStr(proxy) if proxy else None,
    )
    return Settings(accounts={"reportdata": {"main": account}})


async def request(settings: Settings, redis_url: str) -> int:
    connection = connect_vendor(settings, "reportdata/main")
    async with (
        redis.asyncio.Redis.from_url(redis_url) as shared,
        connection.open_client(shared, ONE_ATTEMPT) as client,
    ):
        return (await client.get("/api/v2/nothing")).status_code


async def test_login_and_requests_use_the_proxy(proxy: Proxy, redis_database: str) -> None:
    with running_simulator(SimulatorSettings()) as url:
        assert await request(deployment(url, proxy.url), redis_database) == 404
    assert proxy.seen == [f"POST {url}/oauth/token HTTP/1.1", f"GET {url}/api/v2/nothing HTTP/1.1"]


async def test_proxy_of_the_environment_is_not_used(
    proxy: Proxy, redis_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    with running_simulator(SimulatorSettings()) as url:
        assert await request(deployment(url, None), redis_database) == 404
    assert proxy.seen == []


@pytest.mark.parametrize("password", [PASSWORD, "another-password-9b2"])
async def test_proxy_that_refuses_is_one_error_without_its_password(
    proxy: Proxy, redis_database: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = deployment("https://vendor.example", proxy.url.replace(PASSWORD, password))
    with pytest.raises(UpstreamUnreachable) as refused:
        await request(settings, redis_database)
    assert proxy.seen == ["CONNECT vendor.example:443 HTTP/1.1"]
    for text in (str(refused.value), caplog.text, repr(settings)):
        assert password not in text
    assert "vendor.example" in str(refused.value)


@pytest.mark.parametrize(
    "url", ["proxy.example:3128", "socks5://proxy.example", "http://", "http://a:b@host:99999", ""]
)
def test_other_proxies_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(ValidationError, match="must be the URL of an HTTP proxy") as refused:
        deployment("https://vendor.example", url or " ")
    assert "a:b" not in str(refused.value)


def test_proxy_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    account = {"proxy": "http://proxy.example:3128", "clients": [{"client_id": "a", "client_secret": "b"}]}
    monkeypatch.setenv(
        "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", json.dumps({**account, "base_url": "https://a.example"})
    )
    found = Settings().accounts["reportdata"]["main"].proxy
    assert found is not None
    assert found.get_secret_value() == "http://proxy.example:3128"

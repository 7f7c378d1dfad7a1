"""The configurations of deploy/cdn in real servers: hits, ranges, 304, and stale answers while the origin is down."""

import http.client
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cache_pipeline import edge as edge_reader
from cache_pipeline.cli.edge_server import content_security_policy, edge_app, listening, serving
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline_tests.programs import find_program
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

CONFIGURATIONS = Path(__file__).parents[2] / "deploy" / "cdn"
MANIFEST = "/v1/default/manifest.json"


class Origin:
    """The edge store as a server that counts requests, can be slow or down, and lets its manifest expire in a second."""

    def __init__(self, folder: Path) -> None:
        self.app = edge_app(folder)
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.delay = 0.0
        self.down = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(scope["path"])
        if _is_unusual(scope):
            # A store answers such a request otherwise, and a cache must not keep that as the answer for everybody.
            self.refused.append(f"{scope['method']} {scope['raw_path']!r}?{scope['query_string']!r} {scope['headers']}")
            headers = [(b"cache-control", b"public, max-age=600"), (b"content-length", b"8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"poisoned"})
            return
        if self.delay:
            # Block the server's own thread, as a slow store would delay its answer.
            time.sleep(self.delay)  # noqa: ASYNC251

        async def send_shortened(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, value.replace(b"max-age=60,", b"max-age=1,")) for name, value in message["headers"]
                ]
                if self.down:
                    message["status"] = 503
                    message["headers"] = [(n, v) for n, v in message["headers"] if n != b"cache-control"]
            await send(message)

        await self.app(scope, receive, send_shortened)

    def count(self, path: str) -> int:
        return self.requests.count(path)


def _is_unusual(scope: Any) -> bool:
    """Return whether a request asks a store for something else than the object of its plain path."""
    names = {name.decode() for name, _ in scope["headers"]}
    return (
        scope["method"] not in ("GET", "HEAD")
        or scope["query_string"] != b""
        or re.fullmatch(rb"(/[A-Za-z0-9_.=-]+)+", scope["raw_path"]) is None
        or b".." in scope["raw_path"]
        or any(name.startswith(("x-amz", "authorization", "cookie", "x-http-method", "x-original")) for name in names)
    )


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    edge = EdgeTier(f"file://{tmp_path}/edge", lambda: NOW)
    edge.publish(REPORT, {hours(0, 24): table(hours(0, 24))}, None)
    publish_page(edge.store)
    return Origin(tmp_path / "edge")


def free_port() -> int:
    with listening(0) as listener:
        return listener.getsockname()[1]


@contextmanager
def run_server(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def nginx(folder: Path, origin_port: int, port: int) -> list[str]:
    text = (CONFIGURATIONS / "nginx.conf").read_text()
    changes = {
        "127.0.0.1:9000": f"127.0.0.1:{origin_port}",
        "listen 8080": f"listen 127.0.0.1:{port}",
        "/run/nginx.pid": f"{folder}/nginx.pid",
        "/var/cache/nginx/edge": f"{folder}/cache",
        "worker_processes auto": "worker_processes 1",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    # Only root may write to the package's scratch folders, and root's workers need no other user.
    scratch = f"client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;"
    text = text.replace("  access_log off;", f"  access_log off; {scratch}")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"daemon off; {user}\n{text}")
    return [find_program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def varnish(folder: Path, origin_port: int, port: int) -> list[str]:
    text = (CONFIGURATIONS / "varnish.vcl").read_text()
    assert '"9000"' in text
    (folder / "edge.vcl").write_text(
        text.replace('"9000"', f'"{origin_port}"').replace(".interval = 5s", ".interval = 200ms")
    )
    listen = ["-a", f"127.0.0.1:{port}", "-f", str(folder / "edge.vcl"), "-n", str(folder / "varnish")]
    return [find_program("varnishd"), "-F", *listen, "-s", "malloc,32m", "-p", "thread_pool_min=10", "-j", "none"]


@pytest.fixture(params=[nginx, varnish], ids=["nginx", "varnish"])
def edge(request: pytest.FixtureRequest, origin: Origin, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    folder = tmp_path / "server"
    folder.mkdir()
    make: Callable[[Path, int, int], list[str]] = request.param
    with ExitStack() as stack:
        url = stack.enter_context(serving(origin))
        stack.enter_context(run_server(make(folder, int(url.rsplit(":", 1)[1]), port), port))
        yield f"http://127.0.0.1:{port}"


def data_path(origin: Origin, edge: str) -> str:
    manifest = httpx.get(f"{edge}{MANIFEST}").json()
    return f"/v1/default/{manifest['datasets']['queue_hour']['files'][0]['path']}"


def test_second_reader_is_answered_from_cache(edge: str, origin: Origin):
    path = data_path(origin, edge)
    first, second = httpx.get(edge + path), httpx.get(edge + path)
    assert first.content == second.content
    assert origin.count(path) == 1
    assert "hit" in second.headers["cache-status"].lower()
    assert second.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert second.headers["content-type"] == "application/vnd.apache.parquet"
    assert "content-encoding" not in second.headers
    assert int(second.headers["content-length"]) == len(second.content)


def test_range_is_served_from_cached_file(edge: str, origin: Origin):
    path = data_path(origin, edge)
    whole = httpx.get(edge + path).content
    part = httpx.get(edge + path, headers={"Range": "bytes=-8"})
    assert (part.status_code, part.content) == (206, whole[-8:])
    assert "content-range" in part.headers["access-control-expose-headers"].lower()
    assert origin.count(path) == 1


def test_matching_etag_returns_304(edge: str, origin: Origin):
    first = httpx.get(f"{edge}{MANIFEST}", headers={"Accept-Encoding": "identity"})
    repeated = httpx.get(
        f"{edge}{MANIFEST}", headers={"If-None-Match": first.headers["etag"], "Accept-Encoding": "identity"}
    )
    assert (repeated.status_code, repeated.content) == (304, b"")


def test_text_is_compressed(edge: str):
    answer = httpx.get(f"{edge}{MANIFEST}", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["format"] == 1


def test_concurrent_readers_share_one_origin_request(edge: str, origin: Origin):
    path = data_path(origin, edge)
    origin.delay = 0.3
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: httpx.get(edge + path, timeout=30).status_code, range(20)))
    assert set(answers) == {200}
    assert origin.count(path) == 1


def test_stale_figures_are_served_while_origin_is_down(edge: str, origin: Origin):
    """Serve the expired manifest; it expires after a second here, and is served for a day in production."""
    before = httpx.get(f"{edge}{MANIFEST}").json()
    path = data_path(origin, edge)
    httpx.get(edge + path)
    origin.down = True
    requests = origin.count(MANIFEST)
    deadline = time.monotonic() + 20
    while origin.count(MANIFEST) < requests + 3:
        answer = httpx.get(f"{edge}{MANIFEST}")
        assert answer.status_code == 200
        assert answer.json() == before
        assert time.monotonic() < deadline, "the edge never revalidated with the origin"
        time.sleep(0.1)
    assert edge_reader.read(f"{edge}/v1/default", "queue_hour").num_rows == 48


def test_page_has_content_security_policy(edge: str):
    answer = httpx.get(f"{edge}/v1/default/")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == content_security_policy()
    assert answer.headers["x-content-type-options"] == "nosniff"
    script = re.search(r'src="(assets/[^"]+)"', answer.text)
    assert script
    assert httpx.get(f"{edge}/v1/default/{script[1]}").headers["cache-control"].endswith("immutable")


def send_raw(edge: str, method: str, path: str, headers: dict[str, str]) -> int:
    """Send a request whose path is left as it is; return the status."""
    connection = http.client.HTTPConnection(urlsplit(edge).netloc, timeout=20)
    with closing(connection):
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status


#: Requests that could make a store answer something else than the object of the plain path.
UNUSUAL_REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", f"{MANIFEST}?versionId=1", {}),
    ("GET", f"{MANIFEST}?response-content-type=text/html", {}),
    ("GET", f"{MANIFEST}?", {}),
    ("GET", "//v1//default/manifest.json", {}),
    ("GET", "/v1/other/../default/manifest.json", {}),
    ("GET", "/v1/default/./manifest.json", {}),
    ("GET", "/v1/default/%6danifest.json", {}),
    ("GET", "/v1/default%2Fmanifest.json", {}),
    ("GET", f"{MANIFEST}%3FversionId=1", {}),
    ("GET", f"{MANIFEST}%0d%0aX-Injected:1", {}),
    ("GET", MANIFEST, {"Authorization": "AWS4-HMAC-SHA256 Credential=example"}),
    ("GET", MANIFEST, {"X-Amz-Security-Token": "example"}),
    ("GET", MANIFEST, {"X-Original-URL": "/v1/other/manifest.json"}),
    ("GET", MANIFEST, {"X-HTTP-Method-Override": "DELETE"}),
    ("GET", MANIFEST, {"Cookie": "session=example"}),
    ("GET", MANIFEST, {"Host": "attacker.example.com"}),
    ("GET", MANIFEST, {"Range": "bytes=0-3"}),
    ("GET", MANIFEST, {"If-Match": '"another"'}),
    ("HEAD", MANIFEST, {}),
    ("PUT", MANIFEST, {"Content-Length": "0"}),
    ("POST", MANIFEST, {"Content-Length": "0"}),
    ("DELETE", MANIFEST, {}),
    ("PURGE", MANIFEST, {}),
]


def test_unusual_requests_neither_reach_the_store_nor_spoil_the_cache(edge: str, origin: Origin):
    for method, path, headers in UNUSUAL_REQUESTS:
        status = send_raw(edge, method, path, headers)
        assert origin.refused == []
        assert status < 500, (method, path, headers)
        assert method in ("GET", "HEAD") or status == 405
    assert httpx.get(f"{edge}{MANIFEST}").json()["format"] == 1


def test_every_configuration_has_same_policy():
    for path in CONFIGURATIONS.iterdir():
        text = " ".join(path.read_text().split())
        assert content_security_policy() in text, path.name

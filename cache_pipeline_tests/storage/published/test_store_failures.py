"""A store that is full, forbidden or unreachable: the publication stays intact, and the error names the remedy."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.maintenance import verify
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline.storage.published.readback import DEFAULT_GRACE, read_back, require_public_url
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

DAY, NEXT = hours(0, 24), hours(24, 48)

_PUBLISH_WITH_FILE_LIMIT = """
import resource, signal, sys
from cache_pipeline.storage.published import EdgeStoreError, EdgeTier
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table
edge = EdgeTier(sys.argv[1], lambda: NOW)
# The kernel stops a write beyond this size in the middle, as a full disk does.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    edge.publish(REPORT, {hours(24, 48): table(hours(24, 48), 2)}, None)
except EdgeStoreError as error:
    print(error)
    sys.exit(2)
"""


def test_manifest_whose_snapshot_cannot_be_stored_is_not_published(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    edge.publish(REPORT, {DAY: table(DAY)}, None)
    tenant = tmp_path / "v1/default"
    before = (tenant / "manifest.json").read_bytes()
    shutil.rmtree(tenant / "snapshots")
    (tenant / "snapshots").write_text("in the way")
    with pytest.raises(EdgeStoreError):
        edge.publish(REPORT, {NEXT: table(NEXT, 2)}, None)
    assert (tenant / "manifest.json").read_bytes() == before


def test_full_disk_breaks_nothing(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    edge.publish(REPORT, {DAY: table(DAY)}, None)
    before = (tmp_path / "v1/default/manifest.json").read_bytes()
    full = subprocess.run(
        [sys.executable, "-c", _PUBLISH_WITH_FILE_LIMIT, f"file://{tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 2, full.stderr
    assert "free some space, then publish again; the former publication is intact" in full.stdout
    assert full.stdout.count("\n") == 1
    assert (tmp_path / "v1/default/manifest.json").read_bytes() == before
    assert verify(edge) == []
    edge.publish(REPORT, {NEXT: table(NEXT, 2)}, None)
    assert edge.read(REPORT, NEXT).num_rows == 48


_USE_AS_NOBODY = """
import os, sys
from cache_pipeline import edge as reader
from cache_pipeline.storage.published import EdgeStoreError, EdgeTier
from cache_pipeline.storage.published.maintenance import collect_garbage, rollback, verify
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
url, snapshot, day = sys.argv[1], sys.argv[2], hours(0, 24)
def edge():
    return EdgeTier(url, lambda: NOW)
for attempt in (
    lambda: EdgeTier(url + "/other/folder", lambda: NOW),
    lambda: edge().publish(REPORT, {day: table(day, 2)}, None),
    lambda: publish_page(edge().store),
    lambda: rollback(edge(), snapshot),
    lambda: collect_garbage(edge(), forget=True),
    lambda: verify(edge()),
    lambda: edge().read(REPORT, day),
    lambda: reader.read(f"{url}/v1/default", "queue_hour"),
):
    try:
        print("done", attempt())
    except EdgeStoreError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_forbidden_folder_error_names_the_user():
    # The user nobody may not enter pytest's folders, which belong to root.
    home = Path(tempfile.mkdtemp())
    try:
        home.chmod(0o755)
        edge = EdgeTier(f"file://{home}/edge", lambda: NOW)
        snapshot = edge.publish(REPORT, {DAY: table(DAY)}, None).snapshot
        for file in home.glob("edge/v1/default/data/*/*/*.parquet"):
            file.chmod(0o600)
        before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
        lines = subprocess.run(
            [sys.executable, "-c", _USE_AS_NOBODY, f"file://{home}/edge", snapshot],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert len(lines) == 8
        *publishing, reading = lines
        for line in publishing:
            assert line.endswith(
                "let the user of this process (id 65534) read and write that folder and everything in it"
            ), line
        assert reading.endswith("check the URL and its credentials, and that it can be reached from here"), reading
        assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
        assert verify(edge) == []
    finally:
        shutil.rmtree(home)


class _ForbiddingHandler(BaseHTTPRequestHandler):
    """An S3 server that refuses every write with S3's own error."""

    def do_GET(self) -> None:
        self._answer(404, "NoSuchKey")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(403, "AccessDenied")

    def _answer(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Access Denied</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
        pass


@pytest.fixture
def forbidding(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ForbiddingHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "planted-secret",
        "REGION": "us-east-1",
        "ALLOW_HTTP": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield "s3://bucket/prefix"
    server.shutdown()
    server.server_close()
    thread.join()


def test_forbidden_bucket_error_names_the_rights(forbidding: str):
    edge = EdgeTier(forbidding, lambda: NOW)
    for attempt in (lambda: edge.publish(REPORT, {DAY: table(DAY)}, None), lambda: publish_page(edge.store)):
        with pytest.raises(
            EdgeStoreError, match="give the credentials the right to read, write, list and delete"
        ) as raised:
            attempt()
        assert "\n" not in str(raised.value)
        assert "planted-secret" not in str(raised.value)


def test_missing_bucket_is_reported(bucket: str):
    edge = EdgeTier(f"{bucket.rsplit('/', 1)[0]}-not", lambda: NOW)
    with pytest.raises(EdgeStoreError, match=r"publishing queue_hour.*(exists|reached)"):
        edge.publish(REPORT, {DAY: table(DAY)}, None)


def test_headers_are_set_on_a_bucket(bucket: str):
    edge = EdgeTier(bucket, lambda: NOW)
    [file] = edge.publish(REPORT, {DAY: table(DAY)}, None).files
    publish_page(edge.store)
    name, prefix = bucket.removeprefix("s3://").split("/", 1)
    store = S3Store(name, prefix=f"{prefix}/v1/default", client_options={"allow_http": True})
    page = next(item["path"] for item in obstore.list(store, "assets").collect() if item["path"].endswith("app.js"))
    immutable = "public, max-age=31536000, immutable"
    expected = {
        file.path: (immutable, "application/vnd.apache.parquet"),
        "manifest.json": ("public, max-age=60, stale-while-revalidate=600, stale-if-error=86400", "application/json"),
        "index.html": ("no-cache", "text/html; charset=utf-8"),
        page: (immutable, "text/javascript; charset=utf-8"),
    }
    for path, (cache_control, content_type) in expected.items():
        attributes = obstore.get(store, path).attributes
        assert (attributes["Cache-Control"], attributes["Content-Type"]) == (cache_control, content_type), path


def test_public_url_serves_the_latest_publication(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    snapshot = edge.publish(REPORT, {DAY: table(DAY)}, None).snapshot
    public = f"file://{tmp_path}/v1/default"
    result = read_back(edge, public, NOW)
    assert (result.published, result.served, result.is_current, result.problem) == (snapshot, snapshot, True, "")


def test_cdn_that_lags_too_long_is_reported(tmp_path: Path):
    """A CDN may lag by what the manifest's own Cache-Control allows."""
    edge = EdgeTier(f"file://{tmp_path}/store", lambda: NOW)
    edge.publish(REPORT, {DAY: table(DAY)}, None)
    (tmp_path / "cdn").mkdir()
    (tmp_path / "cdn/manifest.json").write_bytes((tmp_path / "store/v1/default/manifest.json").read_bytes())
    edge.publish(REPORT, {NEXT: table(NEXT)}, None)
    public = f"file://{tmp_path}/cdn"
    behind = read_back(edge, public, NOW + DEFAULT_GRACE / 2)
    assert (behind.is_current, behind.problem) == (False, "")
    late = read_back(edge, public, NOW + DEFAULT_GRACE + timedelta(seconds=1))
    assert "must honour the manifest's Cache-Control (max-age=60); purge manifest.json" in late.problem


def test_public_url_without_manifest_is_reported(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}/store", lambda: NOW)
    edge.publish(REPORT, {DAY: table(DAY)}, None)
    (tmp_path / "cdn").mkdir()
    assert "check the CDN's origin and access rules" in read_back(edge, f"file://{tmp_path}/cdn", NOW).problem
    (tmp_path / "cdn/manifest.json").write_text("<html>a login page</html>")
    assert "serves no readable manifest" in read_back(edge, f"file://{tmp_path}/cdn", NOW).problem
    with pytest.raises(EdgeStoreError, match="CACHE_PIPELINE_EDGE_PUBLIC_URL is not set"):
        require_public_url(None)

"""A reader of published files is told what a reader can do, and never to publish."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cache_pipeline import edge
from cache_pipeline.errors import EdgeStoreError


class _Chunked(BaseHTTPRequestHandler):
    """Answers without Content-Length, as a server does that compresses."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"2\r\n{}\r\n0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given by the library
        del format, args


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/default"
        finally:
            server.shutdown()
            thread.join()


def test_answer_without_length_names_the_server():
    with serve(_Chunked) as url, pytest.raises(EdgeStoreError, match=r"let the server .* send Content-Length"):
        edge.read_manifest(url)


def test_unreachable_store_names_the_url():
    with pytest.raises(EdgeStoreError, match=r"127\.0\.0\.1:1/.*check the URL") as raised:
        edge.read("http://127.0.0.1:1/v1/default", "queue_hour")
    assert "publish" not in str(raised.value)

"""Answers in a vendor's form that were rendered lately, because rendering one costs more than reading it from the hot tier."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from cache_pipeline.storage.answer import Answer

_MAX_BYTES = 32 * 1024 * 1024


class RenderedAnswers:
    """Keeps rendered bodies, the most recently read ones, up to a number of bytes.

    A body is found by the answer that it was rendered from and by the query as it was sent, so it is never older than the answer,
    and two queries that differ in the order of their fields have bodies of their own.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def get(self, answer: Answer, path: str, query: bytes) -> bytes | None:
        """Return the body that an answer was rendered to for a query, or None if it is not known."""
        key = _key(answer, path, query)
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    def store(self, answer: Answer, path: str, query: bytes, body: bytes) -> None:
        """Keep a body; one that alone is larger than a quarter of all is left out."""
        key = _key(answer, path, query)
        if len(body) * 4 > self._max_bytes or key in self._bodies:
            return
        self._bodies[key] = body
        self._size += len(body)
        while self._size > self._max_bytes:
            _, dropped = self._bodies.popitem(last=False)
            self._size -= len(dropped)


def _key(answer: Answer, path: str, query: bytes) -> bytes:
    parts = (answer.etag.encode(), answer.completeness.complete_through.isoformat().encode(), path.encode(), query)
    return hashlib.blake2b(b"\n".join(parts), digest_size=16).digest()

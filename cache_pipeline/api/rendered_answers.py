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

    def get(self, answer: Answer, key: str, path: str, query: bytes) -> bytes | None:
        """Return the body that an answer was rendered to, or None if it is not known.

        Args:
            answer: The answer.
            key: The key of the query's meaning, which for one and the same body depends on the caller's limits.
            path: The path.
            query: The query as it was sent.
        """
        digest = _digest(answer, key, path, query)
        body = self._bodies.get(digest)
        if body is not None:
            self._bodies.move_to_end(digest)
        return body

    def store(self, answer: Answer, key: str, path: str, query: bytes, body: bytes) -> None:
        """Keep a body; one that alone is larger than a quarter of all is left out."""
        digest = _digest(answer, key, path, query)
        if len(body) * 4 > self._max_bytes or digest in self._bodies:
            return
        self._bodies[digest] = body
        self._size += len(body)
        while self._size > self._max_bytes:
            _, dropped = self._bodies.popitem(last=False)
            self._size -= len(dropped)


def _digest(answer: Answer, key: str, path: str, query: bytes) -> bytes:
    instant = answer.completeness.complete_through.isoformat()
    parts = (*(each.encode() for each in (answer.etag, instant, key, path)), query)
    return hashlib.blake2b(b"\n".join(parts), digest_size=16).digest()

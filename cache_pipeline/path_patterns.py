"""Patterns of HTTP methods and paths, of which allow-lists consist.

Only plain paths match: those that have one spelling. An escape, an empty part, a part of dots, a parameter or a backslash may mean
another path to a server behind, so a path that has one matches no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PART = r"[A-Za-z0-9_~-][A-Za-z0-9_.~-]*"
_PLAIN_PATH = re.compile(rf"(?:/{_PART})+")
_PATTERN = re.compile(rf"(?:/(?:{_PART}|\*))+(?:/\*\*)?")
_MAX_LENGTH = 512
#: The last part of paths to which queries are posted: such a POST only reads.
_QUERY = "query"


def is_plain_path(path: str) -> bool:
    """Return whether a path has only one spelling."""
    return len(path) <= _MAX_LENGTH and _PLAIN_PATH.fullmatch(path) is not None


def raw_path(scope: Mapping[str, Any]) -> str:
    """Return the path of an ASGI request as it was sent: of two spellings of a path, a pattern admits one."""
    return scope.get("raw_path", scope["path"].encode()).decode("latin-1")


def only_reads(method: str, path: str) -> bool:
    """Return whether a request changes nothing, as far as its method and path tell, so that it may be sent twice."""
    return method in ("GET", "HEAD") or (method == "POST" and path.rpartition("/")[2] == _QUERY)


@dataclass(frozen=True)
class PathPattern:
    """One method, and the paths for which it is allowed.

    Attributes:
        method: The method. GET includes HEAD.
        path: A path, in which ``*`` stands for any one part, and ``**`` at its end for one or more parts.
    """

    method: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern such as ``GET /api/v2/users/*``.

        Raises:
            ValueError: It is no such pattern.
        """
        method, _, path = text.strip().partition(" ")
        path = path.strip()
        if method not in _METHODS:
            raise ValueError(
                f"{text[:80]!r} does not begin with a method: write {', '.join(_METHODS)}, a space and a path, such as "
                "GET /api/v2/users/*"
            )
        if len(path) > _MAX_LENGTH or _PATTERN.fullmatch(path) is None:
            raise ValueError(
                f"{text[:80]!r} has no plain path: write parts of letters, digits and - . _ ~, with * for any one part and ** at "
                "the end for one or more of them"
            )
        return cls(method, path)

    @property
    def has_wildcard(self) -> bool:
        """Whether it stands for several paths."""
        return "*" in self.path

    @property
    def only_reads(self) -> bool:
        """Whether the requests that it admits change nothing, as far as method and path tell."""
        return only_reads(self.method, self.path)

    def admits(self, method: str, path: str) -> bool:
        """Return whether a request with this method and path is allowed."""
        if self.method != ("GET" if method == "HEAD" else method) or not is_plain_path(path):
            return False
        expected, parts = self.path.split("/"), path.split("/")
        if expected[-1] == "**":
            expected.pop()
            if len(parts) <= len(expected):
                return False
            parts = parts[: len(expected)]
        return len(parts) == len(expected) and all(
            each in ("*", part) for each, part in zip(expected, parts, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

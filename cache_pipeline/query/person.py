"""A person to be forgotten: an id or an address, how it is found in what is stored, and what takes its place."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from cache_pipeline.errors import CommandError

#: A shorter text would be found in what has nothing to do with the person.
_MIN_LENGTH, _MAX_LENGTH = 4, 200
_WORD = "0-9A-Za-z_-"
#: In URLs and in JSON, an escaped character may stand right before the text.
_START = rf"(?:(?<![{_WORD}])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=\\[bfnrt]))"
_END = rf"(?![{_WORD}])"
#: How every pseudonym begins.
FORGOTTEN = "forgotten"


def is_identifier(text: str) -> bool:
    """Return whether a text can be searched for."""
    return _MIN_LENGTH <= len(text) <= _MAX_LENGTH and text.isprintable() and any(map(str.isalnum, text))


@dataclass(frozen=True)
class Person:
    """An id or an address of a person.

    Attributes:
        identifier: As vendors write it, such as an id or ``+4930123456``.
        pseudonym: What takes its place where a row or a text stays.
        keeps_rows: Whether rows with figures stay, so that totals do; else they are removed.
    """

    identifier: str
    pseudonym: str = FORGOTTEN
    keeps_rows: bool = False

    def __post_init__(self) -> None:
        """Refuse a text that could be found anywhere.

        Raises:
            CommandError: It is too short or long, or has characters that no id has.
        """
        if not is_identifier(self.identifier):
            raise CommandError(
                f"an id or address has {_MIN_LENGTH} to {_MAX_LENGTH} printable characters: write it as the vendor does"
            )

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """How the id is written in rows, in JSON and in URLs."""
        text = self.identifier
        written = (text, json.dumps(text)[1:-1], quote(text, safe=""), quote(text), quote(text, safe="+:@"))
        return tuple(dict.fromkeys(written))

    @cached_property
    def pattern(self) -> str:
        """A regular expression for Python and for PostgreSQL, which does not find the id within another one."""
        starts = (_START if re.match(rf"[{_WORD}]", form) else "" for form in self.forms)
        return "|".join(f"{start}{re.escape(form)}{_END}" for start, form in zip(starts, self.forms, strict=True))

    @cached_property
    def _bytes_pattern(self) -> re.Pattern[bytes]:
        return re.compile(self.pattern.encode())

    def occurs_in(self, content: bytes | str | None) -> bool:
        """Return whether a content names the person."""
        if not content:
            return False
        return self._bytes_pattern.search(content.encode() if isinstance(content, str) else content) is not None

    def find_in(self, content: bytes) -> list[tuple[int, bytes]]:
        """Return where a content names the person, and what may be written there instead; it has the same length."""
        return [
            (match.start(), self.pseudonym.encode().ljust(len(match[0]), b"-")[: len(match[0])])
            for match in self._bytes_pattern.finditer(content)
        ]

    def replace_in(self, content: bytes) -> bytes:
        """Return a content with something else in place of the id."""
        return self._bytes_pattern.sub(self.pseudonym.encode(), content)


def pseudonym_of(identifier: str, salt: bytes) -> str:
    """Return a name that cannot be traced back to an id once the salt is deleted, and is the same until then."""
    return f"{FORGOTTEN}-{hmac.new(salt, identifier.encode(), hashlib.sha256).hexdigest()[:16]}"

"""What a catalogue of an open table format has of the published files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cache_pipeline.errors import EdgeStoreError, first_line

_MAX_CAUSE_LENGTH = 200


@dataclass(frozen=True)
class Registration:
    """What the catalogue has of one data set.

    Attributes:
        table: The name of its table, with the namespace.
        location: What a query names to read exactly this: the URL of the newest Iceberg metadata file, or a DuckLake version.
        added: The number of files that were registered now.
        removed: The number of files that are no longer part of it.
    """

    table: str
    location: str
    added: int
    removed: int


def catalogue_error(kind: str, error: Exception, urls: Iterable[str], *, remedy: str) -> EdgeStoreError:
    """Return the error of a catalogue that cannot be used.

    Args:
        kind: The table format.
        error: The library's error, which may quote a URL with its password.
        urls: The catalogue's URL in all its spellings.
        remedy: How to fix it.
    """
    text = str(error)
    for url in urls:
        text = text.replace(url, "its URL")
    # Shortened last: what is left of a URL that was cut would not be found.
    cause = first_line(Exception(text))[:_MAX_CAUSE_LENGTH]
    return EdgeStoreError(f"the {kind} catalogue cannot be used: {cause}", remedy=remedy)

"""What a catalogue of an open table format has of the published files."""

from __future__ import annotations

from dataclasses import dataclass


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

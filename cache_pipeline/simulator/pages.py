"""A finished query's answer, written out a page at a time."""

from typing import Any, Protocol


class Pages(Protocol):
    """Entries in the vendor's shape: groups of an aggregate, conversations, or users."""

    def __len__(self) -> int:
        """How many entries there are."""
        ...

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return the JSON object with `size` entries from `offset` on."""
        ...

"""The interface of a finished query's result, which is serialized page by page."""

from typing import Any, Protocol


class PagedResult(Protocol):
    """Entries in the vendor's shape: groups of an aggregate, conversations, or users."""

    def __len__(self) -> int:
        """Return the number of entries."""
        ...

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return the JSON object with `size` entries from `offset`."""
        ...

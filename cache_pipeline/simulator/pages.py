"""The interface of a finished query's result, which is serialized page by page, and its size."""

import json
from collections.abc import Callable
from typing import Any, Protocol


class PagedResult(Protocol):
    """Entries in the vendor's shape: groups of an aggregate, conversations, or users."""

    def __len__(self) -> int:
        """Return the number of entries."""
        ...

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return the JSON object with `size` entries from `offset`."""
        ...


def json_length(content: object) -> int:
    """Return the bytes of `content` as compact JSON."""
    return len(json.dumps(content, separators=(",", ":")).encode())


def most_that_fit(count: int, max_bytes: int, size_of: Callable[[int], int]) -> int:
    """Return the largest number up to `count` of entries whose `size_of` is at most `max_bytes`; 0 if none fits."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if size_of(middle) <= max_bytes:
            low = middle
        else:
            high = middle - 1
    return low

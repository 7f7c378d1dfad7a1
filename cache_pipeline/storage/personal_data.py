"""What a store does to forget a person, and what it says about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Protocol

from cache_pipeline.query.person import Person


@dataclass(frozen=True)
class Erasure:
    """What one place of a store held of a person.

    Attributes:
        store: The store.
        place: The table, folder or kind of key.
        removed: Rows, files, keys or entries that were removed.
        replaced: Those in which something else stands in place of the id now.
        left: Those that still name the person; `note` says what to do.
        note: What the operator has to know.
    """

    store: str
    place: str
    removed: int = 0
    replaced: int = 0
    left: int = 0
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the place held nothing of the person."""
        return not (self.removed or self.replaced or self.left)


class PersonalDataStore(Protocol):
    """A store that can forget a person. It may be killed at any time, and called again: then it finds what is left."""

    def forget(self, person: Person) -> Iterator[Erasure]:
        """Forget a person, place by place. It blocks."""
        ...


class AsyncPersonalDataStore(Protocol):
    """The same, of a store with asynchronous calls."""

    def forget(self, person: Person) -> AsyncIterator[Erasure]:
        """Forget a person, place by place."""
        ...

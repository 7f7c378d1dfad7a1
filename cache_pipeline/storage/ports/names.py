"""The names of ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cache_pipeline.query.names import ListedName, NameChanges, NamePage, NameSelection, NameVersion


@dataclass(frozen=True)
class NameScope:
    """Whose names they are.

    Attributes:
        tenant: The tenant.
        account: The vendor's account, such as ``vendor/main``.
    """

    tenant: str
    account: str


@dataclass(frozen=True)
class LookupState:
    """What is known of one listing of names.

    Attributes:
        listed_at: When it was last read completely; None if it never was.
        names: The ids with a name that is still valid.
        problem: Why it cannot be used; None if the last attempt succeeded.
        problem_since: When this problem was first recorded; None if there is none.
    """

    listed_at: datetime | None
    names: int
    problem: str | None
    problem_since: datetime | None = None


class NameStore(Protocol):
    """The names of ids, with the time for which each was valid. Every method is one transaction, and blocks."""

    def update(self, scope: NameScope, lookup: str, listed: Mapping[str, ListedName], at: datetime) -> NameChanges:
        """Store what a complete listing changes, unless a later one was stored.

        Args:
            scope: Whose names they are.
            lookup: The listing.
            listed: All its entries by id.
            at: When it was read.

        Returns:
            What was changed.
        """
        ...

    def record_problem(self, scope: NameScope, lookup: str, problem: str, at: datetime) -> bool:
        """Record why a listing cannot be used from an instant on. Return False if the same was recorded before."""
        ...

    def versions(self, scope: NameScope, ids: Mapping[str, Collection[str]]) -> dict[str, dict[str, list[NameVersion]]]:
        """Return the names of ids by lookup and id, oldest first; ids without a name are absent.

        Args:
            scope: Whose names they are.
            ids: The ids of each lookup.
        """
        ...

    def valid_ids(self, scope: NameScope, lookup: str) -> list[str]:
        """Return the ids of a listing whose names are still valid, sorted."""
        ...

    def page(self, scope: NameScope, lookup: str, selection: NameSelection) -> NamePage:
        """Return some entries of a listing; those that are no longer listed are deleted."""
        ...

    def state(self, scope: NameScope) -> dict[str, LookupState]:
        """Return what is known of each listing."""
        ...

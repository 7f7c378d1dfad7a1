"""Forgets a person in every store, and says in a receipt what each of them held and what only time removes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cache_pipeline.query.person import Person
from cache_pipeline.storage.personal_data import AsyncPersonalDataStore, Erasure, PersonalDataStore

#: What no command can reach.
REMOVED_BY_TIME = (
    "PostgreSQL: dead rows until the next VACUUM, the write-ahead log, its archive, and standbys until they have replayed it",
    "Redis: its append-only file and snapshots until they are rewritten",
    "backups of the database, of Redis and of volumes: until they expire, or the command runs on what is restored from them",
    "catalogues in Iceberg and DuckLake: the least and greatest text of each column, in old metadata, until that is removed",
    "copies of answers and published files in a CDN, in browsers and in HTTP caches: until they expire; purge the CDN",
    "processes that run: answers of the last seconds, and figures that are being fetched now; run the command again after them",
    "what was exported or downloaded: warehouses until the next cache-pipeline export, files and spreadsheets",
    "the vendor: a later fetch stores again what the vendor still has, so delete the person there first",
)


@dataclass(frozen=True)
class Receipt:
    """What was done to forget a person.

    Attributes:
        pseudonym: What takes the place of the id in rows; None if rows were removed.
        erasures: What each place held; places that held nothing are left out.
    """

    pseudonym: str | None
    erasures: tuple[Erasure, ...]

    @property
    def is_complete(self) -> bool:
        """Whether nothing that a command can reach names the person any more."""
        return not any(erasure.left for erasure in self.erasures)

    def as_document(self) -> dict[str, Any]:
        """Return the receipt as JSON. It does not name the person."""
        return {
            "pseudonym": self.pseudonym,
            "complete": self.is_complete,
            "places": [
                {
                    "store": each.store,
                    "place": each.place,
                    "removed": each.removed,
                    "replaced": each.replaced,
                    "left": each.left,
                    "note": each.note,
                }
                for each in self.erasures
            ],
            "removedByTime": list(REMOVED_BY_TIME) if self.erasures else [],
        }


@dataclass(frozen=True)
class FollowedDeletion:
    """What was done to follow a vendor's request to delete a person's data.

    Attributes:
        account: The vendor account.
        request: The vendor's id of the request.
        receipts: The receipt of each id and address of the person.
        skipped: The number of ids and addresses that are too short or long to be searched for.
    """

    account: str
    request: str
    receipts: tuple[Receipt, ...]
    skipped: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing that a command can reach names the person any more; otherwise the request is followed again."""
        return all(receipt.is_complete for receipt in self.receipts)

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON. It does not name the person."""
        return {
            "account": self.account,
            "request": self.request,
            "complete": self.is_complete,
            "skipped": self.skipped,
            "receipts": [receipt.as_document() for receipt in self.receipts],
        }


async def forget_person(person: Person, stores: Sequence[PersonalDataStore | AsyncPersonalDataStore]) -> Receipt:
    """Forget a person in some stores, one after the other: first those from which the others are filled.

    If it is interrupted, the next call finds what is left: everything is found by its content.
    """
    found: dict[tuple[str, str], Erasure] = {}
    for store in stores:
        outcome = store.forget(person)
        erasures = [each async for each in outcome] if isinstance(outcome, AsyncIterator) else _all(outcome)
        for each in erasures:
            before = found.get((each.store, each.place), Erasure(each.store, each.place))
            found[each.store, each.place] = Erasure(
                each.store,
                each.place,
                before.removed + each.removed,
                before.replaced + each.replaced,
                before.left + each.left,
                before.note or each.note,
            )
    return Receipt(
        person.pseudonym if person.keeps_rows else None, tuple(each for each in found.values() if not each.is_empty)
    )


def _all(erasures: Iterator[Erasure]) -> list[Erasure]:
    return list(erasures)

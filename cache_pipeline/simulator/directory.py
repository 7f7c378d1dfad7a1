"""The names of what dimensions hold the ids of: queues, users, skills and others. They can be changed while it runs.

The vendor documents neither how long a name may be nor when a changed one is seen; here it is seen at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from uuid import NAMESPACE_OID, uuid5

from cache_pipeline.simulator.organisation import WRAP_UP_CODES, Organisation

_QUEUES = (
    "Billing",
    "Orders",
    "Technical support",
    "Deliveries",
    "Returns",
    "Contracts",
    "Complaints",
    "New customers",
)
_DIVISIONS = ("Home", "Partners")
_FLOWS = ("Main line", "After hours", "Order status")
_SKILLS = ("German", "English", "Invoices", "Hardware", "Deliveries abroad")
_TEAMS = ("Early shift", "Late shift")
_GROUPS = ("Supervisors", "Trainees")


@dataclass(frozen=True)
class Entry:
    """One named thing.

    Attributes:
        id: Its id.
        name: Its name.
        division: The id of its division; None for things that belong to no division.
        is_deleted: Whether it was deleted.
    """

    id: str
    name: str
    division: str | None = None
    is_deleted: bool = False


class Directory:
    """The entries of each kind, in the order of their creation. Thread-safe."""

    def __init__(self, organisation: Organisation, seed: int) -> None:
        divisions = organisation.divisions

        def named(ids: tuple[str, ...], names: tuple[str, ...], word: str, *, divided: bool = True) -> dict[str, Entry]:
            return {
                id_: Entry(
                    id_,
                    names[number] if number < len(names) else f"{word} {number + 1}",
                    divisions[number % len(divisions)] if divided else None,
                )
                for number, id_ in enumerate(ids)
            }

        def new(names: tuple[str, ...], word: str, *, divided: bool = True) -> dict[str, Entry]:
            ids = tuple(str(uuid5(NAMESPACE_OID, f"{seed}/{word}/{number}")) for number in range(len(names)))
            return named(ids, names, word, divided=divided)

        values = organisation.values
        self._lock = Lock()
        self._kinds: Mapping[str, dict[str, Entry]] = {
            "queues": named(values["queueId"], _QUEUES, "Queue"),
            "users": named(values["userId"], (), "Agent"),
            "divisions": named(divisions, _DIVISIONS, "Division", divided=False),
            "flows": named(values["flowId"], _FLOWS, "Flow"),
            "wrapupcodes": named(organisation.wrap_up_codes, WRAP_UP_CODES, "Code"),
            "skills": new(_SKILLS, "Skill", divided=False),
            "teams": new(_TEAMS, "Team"),
            "groups": new(_GROUPS, "Group", divided=False),
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of all kinds."""
        return tuple(self._kinds)

    def entries(self, kind: str) -> list[Entry]:
        """Return all entries of a kind, also deleted ones."""
        with self._lock:
            return list(self._kinds[kind].values())

    def change(self, kind: str, id_: str, *, name: str | None, is_deleted: bool | None) -> bool:
        """Rename or delete an entry. Return False if there is none."""
        with self._lock:
            entry = self._kinds[kind].get(id_)
            if entry is None:
                return False
            self._kinds[kind][id_] = replace(
                entry,
                name=entry.name if name is None else name,
                is_deleted=entry.is_deleted if is_deleted is None else is_deleted,
            )
            return True

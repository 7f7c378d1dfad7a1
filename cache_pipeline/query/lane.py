"""The priority lanes of the shared quota."""

from enum import StrEnum


class Lane(StrEnum):
    """The priority of a request. Lanes share one quota; backfill gets the smallest share."""

    interactive = "interactive"
    scheduled = "scheduled"
    backfill = "backfill"

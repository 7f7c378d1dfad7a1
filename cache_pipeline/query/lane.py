"""The priority lanes of the shared quota."""

from enum import StrEnum


class Lane(StrEnum):
    """The priority of a request, the most urgent first. Lanes share one quota; backfill gets the smallest share."""

    interactive = "interactive"
    scheduled = "scheduled"
    backfill = "backfill"

    @property
    def rank(self) -> int:
        """The place in the order of urgency; 0 is the most urgent."""
        return list(Lane).index(self)


def most_urgent(*lanes: Lane) -> Lane:
    """Return the most urgent of some lanes."""
    return min(lanes, key=lambda lane: lane.rank)

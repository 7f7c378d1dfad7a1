"""The priority lanes of the shared quota."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Priority:
    """The priority of a request: its lane, and its place within the lane, which callers share in turn.

    Attributes:
        lane: The lane.
        callers: The ids of the API keys that wait for its result; empty for work of the deployment itself.
    """

    lane: Lane
    callers: frozenset[str] = frozenset()

    def __or__(self, other: Priority) -> Priority:
        """Return the priority of a request that both want: it belongs to the callers of both."""
        return Priority(most_urgent(self.lane, other.lane), self.callers | other.callers)


#: The priority of the deployment's own interactive work.
INTERACTIVE = Priority(Lane.interactive)

"""Who there is: the queues, media and agents of the simulated organisation, named by ids that follow from the seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from cache_pipeline.simulator.settings import SimulatorSettings

MEDIA = ("voice", "chat", "email")


@dataclass(frozen=True)
class Organisation:
    """The values each dimension can take; a call holds their positions as codes."""

    values: Mapping[str, tuple[str, ...]]

    def size(self, dimension: str) -> int:
        """Return how many values `dimension` has; 0 for one that no call carries."""
        return len(self.values.get(dimension, ()))


def organisation_of(settings: SimulatorSettings) -> Organisation:
    """Return the organisation that follows from `settings`."""

    def ids(kind: str, count: int) -> tuple[str, ...]:
        return tuple(str(uuid5(NAMESPACE_OID, f"{settings.seed}/{kind}/{number}")) for number in range(count))

    return Organisation(
        {"queueId": ids("queue", settings.queues), "mediaType": MEDIA, "userId": ids("agent", settings.agents)}
    )

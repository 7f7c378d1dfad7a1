"""Who there is: the queues, divisions, media, flows and agents of the simulated organisation, named by ids that follow from the seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from cache_pipeline.simulator.genesys_vocabulary import SYSTEM_PRESENCES
from cache_pipeline.simulator.settings import SimulatorSettings

MEDIA = ("voice", "chat", "email")
_FLOWS = 3

MADE_UP_DIMENSIONS: Mapping[str, int] = {
    "actionId": 4,
    "botId": 2,
    "botIntent": 5,
    "cannedResponseLibraryId": 2,
    "caseplanId": 2,
    "evaluatorId": 4,
    "flowObjectId": 5,
    "formId": 3,
    "integrationId": 2,
    "journeyOutcomeId": 3,
    "journeySegmentId": 3,
    "knowledgeBaseDocumentId": 6,
    "stageId": 3,
    "statusId": 4,
    "surveyFormId": 2,
    "surveyQuestionId": 4,
    "toolId": 3,
    "topicId": 5,
    "typeId": 4,
    "workbinId": 3,
}
"""Dimensions that no call has of itself, and how many values each has; what is in neither has none."""


@dataclass(frozen=True)
class Organisation:
    """The values each dimension can take; a call holds their positions as codes."""

    values: Mapping[str, tuple[str, ...]]
    presences: Mapping[str, str]

    @property
    def divisions(self) -> tuple[str, ...]:
        """The ids of the divisions; queue n is in division n modulo their number."""
        return self.values["divisionId"]

    def named_divisions(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Return the ids of the divisions of these numbers; a number that no division has is left out."""
        return tuple(self.divisions[number] for number in sorted(numbers) if number < len(self.divisions))

    def size(self, dimension: str) -> int:
        """Return how many values `dimension` has; 0 for one that no call carries."""
        return len(self.values.get(dimension, ()))


def organisation_of(settings: SimulatorSettings) -> Organisation:
    """Return the organisation that follows from `settings`."""

    def ids(kind: str, count: int) -> tuple[str, ...]:
        return tuple(str(uuid5(NAMESPACE_OID, f"{settings.seed}/{kind}/{number}")) for number in range(count))

    return Organisation(
        {
            "queueId": ids("queue", settings.queues),
            "mediaType": MEDIA,
            "userId": ids("agent", settings.agents),
            "divisionId": ids("division", settings.divisions),
            "direction": ("inbound",),
            "originatingDirection": ("inbound",),
            "flowId": ids("flow", _FLOWS),
            "flowType": ("INBOUNDCALL",),
            **{dimension: ids(dimension, size) for dimension, size in MADE_UP_DIMENSIONS.items()},
        },
        {presence: str(uuid5(NAMESPACE_OID, f"{settings.seed}/presence/{presence}")) for presence in SYSTEM_PRESENCES},
    )

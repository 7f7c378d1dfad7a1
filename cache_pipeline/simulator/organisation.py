"""The simulated organisation: queues, divisions, media, flows and agents, with ids derived from the seed.

Their names are in `directory.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from cache_pipeline.simulator.genesys_vocabulary import SYSTEM_PRESENCES
from cache_pipeline.simulator.settings import SimulatorSettings

MEDIA = ("voice", "chat", "email")
_FLOWS = 3
WRAP_UP_CODES = ("Resolved", "Call back", "Forwarded", "Wrong number")

GENERATED_DIMENSIONS: Mapping[str, int] = {
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
"""Generated dimensions and their numbers of values; any other dimension has values only if calls have it."""


@dataclass(frozen=True)
class Organisation:
    """The values of each dimension; calls refer to them by position (code)."""

    values: Mapping[str, tuple[str, ...]]
    presences: Mapping[str, str]
    wrap_up_codes: tuple[str, ...]

    @property
    def divisions(self) -> tuple[str, ...]:
        """The ids of the divisions; queue n is in division n modulo their number."""
        return self.values["divisionId"]

    def division_ids(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Return the ids of the divisions with these numbers; unknown numbers are ignored."""
        return tuple(self.divisions[number] for number in sorted(numbers) if number < len(self.divisions))

    def size(self, dimension: str) -> int:
        """Return the number of values of `dimension`; 0 if no call has it."""
        return len(self.values.get(dimension, ()))


def create_organisation(settings: SimulatorSettings) -> Organisation:
    """Return the organisation for `settings`."""

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
            **{dimension: ids(dimension, size) for dimension, size in GENERATED_DIMENSIONS.items()},
        },
        {presence: str(uuid5(NAMESPACE_OID, f"{settings.seed}/presence/{presence}")) for presence in SYSTEM_PRESENCES},
        ids("wrap-up code", len(WRAP_UP_CODES)),
    )

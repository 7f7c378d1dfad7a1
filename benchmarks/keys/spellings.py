"""Questions that mean different things, and random ways to write each of them down as a payload of the guide's contract."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

_QUEUES, _MEDIA = ("q1", "q2", "q3", "q4"), ("callback", "chat", "voice")
_METRICS = ("abandoned", "answered", "handleMs", "offered")
_GROUPINGS = ("by15Minutes", "byHour", "byDay")
#: Zones of days, each with other names of the same clock.
_ZONES = {
    "Europe/Berlin": ("Europe/Berlin", "Europe/Stockholm", "Arctic/Longyearbyen"),
    "Asia/Kolkata": ("Asia/Kolkata", "Asia/Calcutta"),
    "UTC": ("UTC", "Etc/UTC", "Zulu"),
}
_FIRST_DAY = datetime(2026, 1, 5)  # noqa: DTZ001 - a local day, of whatever zone is meant
Json = dict[str, Any]


@dataclass(frozen=True)
class Meaning:
    """A question, each field in the one form that the generator gives it; equal only to itself.

    Attributes:
        first, days: local days of the zone.
        zone: whose.
        grouping: the guide's word.
        group_by, metrics: sorted.
        queues: of which the queue must be one; all four mean no condition.
        media: that it must not be; none means no condition.
        either: whether one of the two conditions is enough.
    """

    first: int
    days: int
    zone: str
    grouping: str
    group_by: tuple[str, ...]
    metrics: tuple[str, ...]
    queues: tuple[str, ...]
    media: tuple[str, ...]
    either: bool

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """Both ends, in UTC."""
        zone, first = ZoneInfo(self.zone), _FIRST_DAY + timedelta(days=self.first)
        return (
            first.replace(tzinfo=zone).astimezone(UTC),
            (first + timedelta(days=self.days)).replace(tzinfo=zone).astimezone(UTC),
        )


def meanings(count: int, chance: random.Random) -> list[Meaning]:
    """So many questions, no two of which mean the same."""
    found: dict[Meaning, None] = {}
    while len(found) < count:
        found[_meaning(chance)] = None
    return list(found)


def _some(names: tuple[str, ...], chance: random.Random, least: int = 0) -> tuple[str, ...]:
    return tuple(sorted(chance.sample(names, chance.randint(least, len(names)))))


def _meaning(chance: random.Random) -> Meaning:
    grouping = chance.choice(_GROUPINGS)
    queues, media = _some(_QUEUES, chance, 1), _some(_MEDIA[:2], chance)
    # Quarters and hours are the same in all three zones but for the half hour of Kolkata; days are not.
    zone = chance.choice(tuple(_ZONES)) if grouping == "byDay" else "Europe/Berlin"
    both = len(queues) < len(_QUEUES) and bool(media)
    return Meaning(
        chance.randrange(60),
        chance.choice((1, 2, 7, 30)),
        zone,
        grouping,
        _some(("mediaType", "queueId"), chance),
        _some(_METRICS, chance, 1),
        queues,
        media,
        both and chance.random() < 0.5,
    )


def spelled(meaning: Meaning, chance: random.Random) -> Json:
    """One way to write a question down: order, repetition, offsets, durations, nesting, names and ids are left to chance."""
    fields: Json = {
        "reportId": "queue-performance",
        "timeGrouping": meaning.grouping,
        "interval": _interval(meaning, chance),
        "groupBy": _repeated(meaning.group_by, chance),
        "columns": _repeated(meaning.metrics, chance),
    }
    zone = chance.choice(_ZONES[meaning.zone])
    if meaning.zone != "Europe/Berlin" or chance.random() < 0.5:
        fields["timeZone"] = zone
    filters = _filters(meaning, chance)
    if filters is not None:
        fields["filters"] = filters
    if chance.random() < 0.7:
        fields["requestId"] = f"{chance.getrandbits(64):x}"
    if chance.random() < 0.5:
        fields["metadata"] = {"dashboard": chance.randrange(50), "sentAt": chance.random()}
    return dict(chance.sample(list(fields.items()), len(fields)))


def _repeated(names: tuple[str, ...], chance: random.Random) -> list[str]:
    again = [chance.choice(names)] if names and chance.random() < 0.3 else []
    return chance.sample([*names, *again], len(names) + len(again))


def _interval(meaning: Meaning, chance: random.Random) -> str:
    start, end = (_instant(bound, chance) for bound in meaning.bounds)
    days = chance.choice((f"P{meaning.days}D", f"P{meaning.days // 7}W" if meaning.days == 7 else f"P{meaning.days}D"))
    return chance.choice((f"{start}/{end}", f"{start}/{end}", f"{start}/{days}", f"{days}/{end}"))


def _instant(bound: datetime, chance: random.Random) -> str:
    offset = chance.choice((0, 0, 60, 420, -300, 330))
    text = bound.astimezone(timezone(timedelta(minutes=offset))).isoformat(
        timespec=chance.choice(("seconds", "milliseconds"))
    )
    return text.replace("+00:00", chance.choice(("Z", "+00:00")))


def _filters(meaning: Meaning, chance: random.Random) -> Json | None:
    conditions: list[Json] = []
    if len(meaning.queues) < len(_QUEUES):
        conditions.append(_members(meaning.queues, chance))
    if meaning.media:
        conditions.append(_excluded(meaning.media, chance))
    if not conditions:
        return chance.choice((None, {"type": "and", "predicates": []}))
    kind = "or" if meaning.either or (len(conditions) == 1 and chance.random() < 0.3) else "and"
    if chance.random() < 0.3:
        conditions.append(chance.choice(conditions))
    chance.shuffle(conditions)
    predicates = [each for each in conditions if "dimension" in each]
    clauses = [each for each in conditions if "dimension" not in each]
    return {"type": kind, "predicates": predicates} | ({"clauses": clauses} if clauses else {})


def _members(queues: tuple[str, ...], chance: random.Random) -> Json:
    """One predicate, one for each value joined by or, or their complement denied."""
    whole = {"dimension": "queueId", "operator": "in", "values": _repeated(queues, chance)}
    form = chance.randrange(4)
    if form == 0 and len(queues) > 1:
        each = [{"dimension": "queueId", "operator": "in", "values": [queue]} for queue in _repeated(queues, chance)]
        return {"type": "or", "predicates": each}
    if form == 1:
        return {"type": "not", "predicates": [{**whole, "operator": "notIn"}]}
    return whole


def _excluded(media: tuple[str, ...], chance: random.Random) -> Json:
    """One predicate, or one for each value joined by and."""
    if chance.random() < 0.3 and len(media) > 1:
        each = [{"dimension": "mediaType", "operator": "notIn", "values": [name]} for name in _repeated(media, chance)]
        return {"type": "and", "predicates": each}
    return {"dimension": "mediaType", "operator": "notIn", "values": _repeated(media, chance)}

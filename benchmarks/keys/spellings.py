"""Random queries with different meanings, and random spellings of each as a payload of the guide's contract."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

_QUEUES, _MEDIA = ("q1", "q2", "q3", "q4"), ("callback", "chat", "voice")
_METRICS = ("abandoned", "answered", "handleMs", "offered")
_GROUPINGS = ("by15Minutes", "byHour", "byDay")
#: Time zones, each with other names of the same clock.
_ZONES = {
    "Europe/Berlin": ("Europe/Berlin", "Europe/Stockholm", "Arctic/Longyearbyen"),
    "Asia/Kolkata": ("Asia/Kolkata", "Asia/Calcutta"),
    "UTC": ("UTC", "Etc/UTC", "Zulu"),
}
_FIRST_DAY = datetime(2026, 1, 5)  # noqa: DTZ001 - a local day, in the query's time zone
Json = dict[str, Any]


@dataclass(frozen=True)
class CanonicalQuery:
    """A query in canonical form: two instances are equal exactly if they mean the same.

    Attributes:
        first: First local day, counted from 2026-01-05.
        days: Number of local days.
        zone: Time zone of the days.
        grouping: Time grouping, in the guide's words.
        group_by: Dimensions, sorted.
        metrics: Metrics, sorted.
        queues: Accepted queues; all four mean no condition.
        media: Excluded media; none means no condition.
        either: Whether one of the two conditions is enough.
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
        """Return both ends of the interval, in UTC."""
        zone, first = ZoneInfo(self.zone), _FIRST_DAY + timedelta(days=self.first)
        return (
            first.replace(tzinfo=zone).astimezone(UTC),
            (first + timedelta(days=self.days)).replace(tzinfo=zone).astimezone(UTC),
        )


def random_queries(count: int, rng: random.Random) -> list[CanonicalQuery]:
    """Return `count` queries, no two of which mean the same."""
    found: dict[CanonicalQuery, None] = {}
    while len(found) < count:
        found[_random_query(rng)] = None
    return list(found)


def _random_subset(names: tuple[str, ...], rng: random.Random, least: int = 0) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(names, rng.randint(least, len(names)))))


def _random_query(rng: random.Random) -> CanonicalQuery:
    grouping = rng.choice(_GROUPINGS)
    queues, media = _random_subset(_QUEUES, rng, 1), _random_subset(_MEDIA[:2], rng)
    # Only days need a time zone: quarter hours and hours are the same in all zones, except for Kolkata's half hour.
    zone = rng.choice(tuple(_ZONES)) if grouping == "byDay" else "Europe/Berlin"
    both = len(queues) < len(_QUEUES) and bool(media)
    return CanonicalQuery(
        rng.randrange(60),
        rng.choice((1, 2, 7, 30)),
        zone,
        grouping,
        _random_subset(("mediaType", "queueId"), rng),
        _random_subset(_METRICS, rng, 1),
        queues,
        media,
        both and rng.random() < 0.5,
    )


def spell(query: CanonicalQuery, rng: random.Random) -> Json:
    """Return a random spelling of a query: order, repetition, offsets, durations, nesting, names and ids vary."""
    fields: Json = {
        "reportId": "queue-performance",
        "timeGrouping": query.grouping,
        "interval": _interval(query, rng),
        "groupBy": _shuffle_with_repeats(query.group_by, rng),
        "columns": _shuffle_with_repeats(query.metrics, rng),
    }
    zone = rng.choice(_ZONES[query.zone])
    if query.zone != "Europe/Berlin" or rng.random() < 0.5:
        fields["timeZone"] = zone
    filters = _filters(query, rng)
    if filters is not None:
        fields["filters"] = filters
    if rng.random() < 0.7:
        fields["requestId"] = f"{rng.getrandbits(64):x}"
    if rng.random() < 0.5:
        fields["metadata"] = {"dashboard": rng.randrange(50), "sentAt": rng.random()}
    return dict(rng.sample(list(fields.items()), len(fields)))


def _shuffle_with_repeats(names: tuple[str, ...], rng: random.Random) -> list[str]:
    repeats = [rng.choice(names)] if names and rng.random() < 0.3 else []
    return rng.sample([*names, *repeats], len(names) + len(repeats))


def _interval(query: CanonicalQuery, rng: random.Random) -> str:
    start, end = (_instant(bound, rng) for bound in query.bounds)
    days = rng.choice((f"P{query.days}D", f"P{query.days // 7}W" if query.days == 7 else f"P{query.days}D"))
    return rng.choice((f"{start}/{end}", f"{start}/{end}", f"{start}/{days}", f"{days}/{end}"))


def _instant(bound: datetime, rng: random.Random) -> str:
    offset = rng.choice((0, 0, 60, 420, -300, 330))
    text = bound.astimezone(timezone(timedelta(minutes=offset))).isoformat(
        timespec=rng.choice(("seconds", "milliseconds"))
    )
    return text.replace("+00:00", rng.choice(("Z", "+00:00")))


def _filters(query: CanonicalQuery, rng: random.Random) -> Json | None:
    conditions: list[Json] = []
    if len(query.queues) < len(_QUEUES):
        conditions.append(_members(query.queues, rng))
    if query.media:
        conditions.append(_excluded(query.media, rng))
    if not conditions:
        return rng.choice((None, {"type": "and", "predicates": []}))
    kind = "or" if query.either or (len(conditions) == 1 and rng.random() < 0.3) else "and"
    if rng.random() < 0.3:
        conditions.append(rng.choice(conditions))
    rng.shuffle(conditions)
    predicates = [each for each in conditions if "dimension" in each]
    clauses = [each for each in conditions if "dimension" not in each]
    return {"type": kind, "predicates": predicates} | ({"clauses": clauses} if clauses else {})


def _members(queues: tuple[str, ...], rng: random.Random) -> Json:
    """Return a predicate with all values, one per value joined by `or`, or the complement negated."""
    whole = {"dimension": "queueId", "operator": "in", "values": _shuffle_with_repeats(queues, rng)}
    form = rng.randrange(4)
    if form == 0 and len(queues) > 1:
        each = [
            {"dimension": "queueId", "operator": "in", "values": [queue]}
            for queue in _shuffle_with_repeats(queues, rng)
        ]
        return {"type": "or", "predicates": each}
    if form == 1:
        return {"type": "not", "predicates": [{**whole, "operator": "notIn"}]}
    return whole


def _excluded(media: tuple[str, ...], rng: random.Random) -> Json:
    """Return a predicate with all values, or one per value joined by `and`."""
    if rng.random() < 0.3 and len(media) > 1:
        each = [
            {"dimension": "mediaType", "operator": "notIn", "values": [name]}
            for name in _shuffle_with_repeats(media, rng)
        ]
        return {"type": "and", "predicates": each}
    return {"dimension": "mediaType", "operator": "notIn", "values": _shuffle_with_repeats(media, rng)}

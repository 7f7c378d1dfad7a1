"""Questions that were read before: which URL means which key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.types import Scope

from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Query
from cache_pipeline.storage.ttl import HOT_TTL_TIER

_MOST_QUESTIONS = 10_000


@dataclass(frozen=True)
class KnownQuestion:
    """A URL that was answered before.

    Attributes:
        key: in Redis.
        report: the declaration.
        query: what it asks.
        until: when more of the interval will have begun, so that the question is another; None for never.
    """

    key: str
    report: Report
    query: Query
    until: datetime | None


class KnownQuestions:
    """Which URL means which key, by tenant: reading a question costs more than answering it."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, bytes], KnownQuestion] = OrderedDict()

    def remember(self, tenant: str, scope: Scope, report: Report, query: Query, *, is_whole: bool) -> None:
        """Keep what a URL was found to mean.

        Args:
            tenant: whose data was asked for.
            scope: of the request.
            report: the declaration.
            query: what it asks.
            is_whole: whether all of the interval that the URL names has begun.
        """
        until = None if is_whole else query.span.end
        place = (tenant, scope["path"], scope["query_string"])
        self._known[place] = KnownQuestion(query.key(HOT_TTL_TIER), report, query, until)
        self._known.move_to_end(place)
        while len(self._known) > _MOST_QUESTIONS:
            self._known.popitem(last=False)

    def find(self, tenant: str, scope: Scope) -> KnownQuestion | None:
        """What a URL means, where that is known."""
        found = self._known.get((tenant, scope["path"], scope["query_string"]))
        return found if found is not None and (found.until is None or self._clock() < found.until) else None

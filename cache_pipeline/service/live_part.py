"""Answers of stored figures with what happens now beside them, for reports that declare a live report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.live_part import add_live_rows, mark_rows
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.names import NameTime
from cache_pipeline.query.query_request import QueryRequest
from cache_pipeline.query.schema import Column
from cache_pipeline.service.live_answers import LiveAnswers, live_columns
from cache_pipeline.service.names import Names
from cache_pipeline.storage.answer import Answer, Completeness, describe_answer, read_rows, replace_rows

#: What the head of a live report's answer says of its figures.
_LIVE_HEAD = ("observedAt", "freshUntil", "delivery")


@dataclass(frozen=True)
class LivePart:
    """What a live report says for an answer.

    Attributes:
        report: The live report.
        answer: Its answer; None if it could not be read, or if the query's interval does not contain the present.
        problem: Why it could not be read.
    """

    report: LiveReport
    answer: Answer | None = None
    problem: str | None = None


async def read_live_part(
    live: LiveAnswers, report: LiveReport, request: QueryRequest, tenant: str, now: datetime
) -> LivePart:
    """Read what happens now. A vendor that fails is a problem of the live part alone, and the stored figures are answered."""
    if not request.interval.start <= now < request.interval.end:
        return LivePart(report)
    try:
        answer, _ = await live.answer(report, tenant)
    except CachePipelineError as error:
        return LivePart(report, problem=error.public_text)
    return LivePart(report, answer)


def add_live_part(
    answer: Answer,
    columns: Sequence[Column],
    request: QueryRequest,
    part: LivePart,
    names: tuple[Names, NameTime] | None = None,
) -> Answer:
    """Return an answer whose rows are marked, with the live rows after them. This blocks.

    Args:
        answer: The answer of stored figures, with names and measures as the query wants them.
        columns: Its columns.
        request: The query.
        part: What happens now.
        names: The stored names and which of them, if the answer has names.
    """
    rows = read_rows(answer.body, columns) if answer.rows is None else answer.rows
    marked = mark_rows(rows, answer.completeness.complete_through)
    head: dict[str, Any] = {
        "liveReport": part.report.name,
        **dict.fromkeys(_LIVE_HEAD),
        "liveProblem": part.problem,
    }
    if part.answer is None:
        return replace_rows(answer, marked, head)
    found = part.answer
    if names is not None:
        stored, when = names
        found = stored.add_to_answer(part.report, live_columns(part.report), found, when)
    live_rows = read_rows(found.body, live_columns(part.report)) if found.rows is None else found.rows
    described = describe_answer(found.body)
    joined = replace_rows(
        answer,
        add_live_rows(marked, live_rows, request.requested),
        head | {name: described[name] for name in _LIVE_HEAD},
    )
    return replace(joined, completeness=_older(answer.completeness, found.completeness))


def _older(stored: Completeness, live: Completeness) -> Completeness:
    """Return the completeness of stored figures, which are as old as the older of both parts."""

    def earlier(one: datetime | None, other: datetime | None) -> datetime | None:
        return min(one, other) if one and other else one or other

    return replace(
        stored,
        provisional_from=stored.provisional_from or live.provisional_from,
        fetched_at=earlier(stored.fetched_at, live.fetched_at),
        fresh_until=earlier(stored.fresh_until, live.fresh_until),
    )

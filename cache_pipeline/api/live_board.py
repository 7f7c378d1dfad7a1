"""What the live page shows: a live report by queue, with names, the agents by state, and the service level of the day so far."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cache_pipeline.api.parsing import parse_query
from cache_pipeline.api.query_service import QueryService, ServedAnswer
from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.measures import Measure
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_snake_case
from cache_pipeline.service.live_answers import find_live_kind, observed_column
from cache_pipeline.service.names import Names
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ttl import LIVE_FRESHNESS
from cache_pipeline.vendors.spec import LiveBoard

#: How often the service level of the day is looked up. How often it is fetched is for its report's freshness to say.
_SERVICE_LEVEL_AGE = timedelta(seconds=15)
_NAMES_AGE = timedelta(minutes=1)
_READER = "live"


@dataclass
class _DayLevel:
    by_group: Mapping[tuple[Any, ...], float] = field(default_factory=dict[tuple[Any, ...], float])
    as_of: datetime | None = None
    looked_up_at: datetime | None = None


class BoardReader:
    """Reads what the page shows of one live report of one tenant.

    Args:
        query_service: Answers its queries.
        report: The live report; its kind has a board.
        tenant: The tenant.
    """

    def __init__(self, query_service: QueryService, report: LiveReport, tenant: str) -> None:
        self._query_service, self._report, self._tenant = query_service, report, tenant
        self._day_level = _DayLevel()
        self._dimensions = [to_snake_case(name) for name in report.group_by]
        self._names: tuple[datetime, Mapping[str, Mapping[str, str]]] | None = None
        self._shown: tuple[str, Mapping[str, Any]] | None = None

    async def read(self) -> Mapping[str, Any]:
        """Return what the page shows now, as JSON values. Equal answers give the same object.

        Raises:
            CachePipelineError: The vendor or a store could not be asked.
        """
        answer = (await self._query_service.serve_live(self._report, self._tenant)).answer
        await self._look_up_day_level()
        version = f"{answer.etag} {self._day_level.looked_up_at}"
        if self._shown is None or self._shown[0] != version:
            self._shown = version, await asyncio.to_thread(self._show, answer)
        return self._shown[1]

    def _show(self, answer: Answer) -> Mapping[str, Any]:
        board, document = find_board(self._report), json.loads(answer.body)
        rows = [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]
        names = self._read_names(rows)
        return {
            "observedAt": document["observedAt"],
            "delivery": document["delivery"],
            "staleAfterSeconds": LIVE_FRESHNESS.total_seconds(),
            "serviceLevelAsOf": format_instant(self._day_level.as_of) if self._day_level.as_of else None,
            "rows": [self._show_row(board, row, names) for row in rows],
        }

    def _read_names(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, str]]:
        """Return the names of ids by column, read once a minute: figures that change each second have the same ones."""
        now = self._query_service.clock()
        if self._names is None or now - self._names[0] > _NAMES_AGE:
            ids = {name: {row[name] for row in rows if row[name] is not None} for name in self._dimensions}
            names = Names(self._query_service.report_service.names, self._tenant)
            self._names = now, names.current(self._report, ids)
        return self._names[1]

    def _show_row(
        self, board: LiveBoard, row: Mapping[str, Any], names: Mapping[str, Mapping[str, str]]
    ) -> dict[str, Any]:
        group = tuple(row[name] for name in self._dimensions)
        named: list[Any] = [names.get(name, {}).get(row[name], row[name]) for name in self._dimensions]
        return {
            "id": " ".join(str(part) for part in group if part is not None),
            "name": ", ".join(str(part) for part in named if part is not None),
            "waiting": row.get(board.waiting),
            "waitingSince": row.get(board.waiting_since),
            "interacting": row.get(board.interacting),
            "idle": row.get(board.states[board.idle]),
            "agents": {state: row[column] for state, column in board.states.items() if row.get(column) is not None},
            "serviceLevel": self._day_level.by_group.get(group),
        }

    async def _seek_new_ids(self) -> None:
        """Have the listing read again if the day has figures of what it lacks, such as a queue that was made today."""
        position = self._dimensions.index(observed_column(self._report))
        ids = {group[position] for group in self._day_level.by_group}
        await self._query_service.report_service.live_answers.seek_unlisted(self._report, self._tenant, ids)

    async def _look_up_day_level(self) -> None:
        now, known = self._query_service.clock(), self._day_level
        source = self._find_level_source()
        if source is None or (known.looked_up_at and now - known.looked_up_at < _SERVICE_LEVEL_AGE):
            return
        report, measure = source
        try:
            answer = await self._ask_for_day(report, measure, now)
        except CachePipelineError:
            # The figures of now do not depend on it; the page shows how old it is.
            answer = None
        if answer is None:
            self._day_level = _DayLevel(known.by_group, known.as_of, now)
            return
        document = json.loads(answer.body)
        by_group: dict[tuple[Any, ...], float] = {}
        for values in document["rows"]:
            row = dict(zip(document["columns"], values, strict=True))
            if (level := measure.value(row)) is not None:
                by_group[tuple(row[name] for name in self._dimensions)] = level
        self._day_level = _DayLevel(by_group, answer.completeness.fetched_at or now, now)
        await self._seek_new_ids()

    def _find_level_source(self) -> tuple[Report, Measure] | None:
        """Return the report with the day's service level and its measure; None if none is declared."""
        source = self._report.service_level
        if source is None:
            return None
        report = self._query_service.reports[source.report]
        measure = report.measures.get(source.measure)
        return None if measure is None else (report, measure)

    async def _ask_for_day(self, report: Report, measure: Measure, now: datetime) -> Answer | None:
        """Return the day so far, or None while a job fetches it."""
        service = self._query_service.report_service_for(self._tenant)
        columns = {column.name: column.source for column in service.columns(report)}
        day = now.astimezone(report.zone).date()
        request = {
            "interval": f"{day}/{day + timedelta(days=1)}",
            "granularity": "P1D",
            "group_by": list(self._report.group_by),
            "metrics": sorted({columns[name] for name in measure.columns}),
        }
        reader = Principal(_READER, self._tenant, None, Lane.interactive)
        parsed = parse_query(service, report, request, reader, self._query_service.settings.api.max_buckets)
        served = await self._query_service.serve(parsed, reader)
        return served.answer if isinstance(served, ServedAnswer) else None


def find_board(report: LiveReport) -> LiveBoard:
    """Return which columns of a live report the page shows.

    Raises:
        ValueError: The page shows no reports of this kind.
    """
    board = find_live_kind(report).board
    if board is None:
        raise ValueError(f"{report.query_type} has no board")
    return board


def has_board(report: LiveReport) -> bool:
    """Return whether the page shows a live report."""
    return find_live_kind(report).board is not None

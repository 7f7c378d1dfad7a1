"""What both dialects have in common: reading JSON that anybody may have written, and finding the report it is asked of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from cache_pipeline.errors import InvalidQuery, QueryError, UnknownReport
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.query_request import QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column

_LONGEST_TEXT = 512
_MOST_NAMES = 200

#: Who asks, and how it was sent: never part of what is asked.
IGNORED_FIELDS = frozenset({"clientRequestId", "correlationId", "id", "metadata", "pageSize", "requestId", "traceId"})


@dataclass(frozen=True)
class QueryPayload:
    """A question in words of neither dialect.

    Attributes:
        platform: whose dialect it is.
        subject: the vendor's report id or aggregates family, or the name of a declared report.
        interval: ISO 8601, as written.
        narrowing: the rest; what is None is as the report declares it.
    """

    platform: str
    subject: str
    interval: str
    overrides: QueryOverrides


def read_object(value: object, field: str) -> Mapping[str, object]:
    """A JSON object.

    Raises:
        InvalidQuery: something else.
    """
    if not isinstance(value, dict):
        raise InvalidQuery(field, f"is {_kind(value)} where an object belongs")
    return cast("Mapping[str, object]", value)


def read_text(source: Mapping[str, object], field: str) -> str | None:
    """The text of a field; None where it is absent or null.

    Raises:
        InvalidQuery: something else, a text without end, or one with a NUL character.
    """
    value = source.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidQuery(field, f"is {_kind(value)} where text belongs")
    return check_text(value, field)


def read_required_text(source: Mapping[str, object], field: str, example: str) -> str:
    """The text of a field that must be there.

    Raises:
        InvalidQuery: it is not.
    """
    text = read_text(source, field)
    if not text:
        raise InvalidQuery(field, f"is missing: write {example}, say")
    return text


def read_names(source: Mapping[str, object], field: str) -> tuple[str, ...] | None:
    """The list of texts of a field; None where it is absent or null.

    Raises:
        InvalidQuery: something else.
    """
    value = source.get(field)
    if value is None:
        return None
    if not isinstance(value, list):
        raise InvalidQuery(field, f"is {_kind(value)} where a list of texts belongs")
    names = cast("list[object]", value)
    if len(names) > _MOST_NAMES:
        raise InvalidQuery(field, f"names {len(names)}, and at most {_MOST_NAMES} are read")
    for name in names:
        if not isinstance(name, str):
            raise InvalidQuery(field, f"holds {_kind(name)} where text belongs")
        check_text(name, field)
    return tuple(cast("list[str]", names))


def check_text(text: str, field: str) -> str:
    """The text, where it can be one of a query.

    Raises:
        InvalidQuery: it is too long, or holds a NUL character.
    """
    if len(text) > _LONGEST_TEXT:
        raise InvalidQuery(field, f"is {len(text)} characters long, and at most {_LONGEST_TEXT} are read")
    if "\0" in text:
        raise InvalidQuery(field, "holds a NUL character: leave it out")
    return text


def reject_unknown_fields(source: Mapping[str, object], known: Set[str]) -> None:
    """Make sure that nothing is asked for that would be left out of the answer without a word.

    Raises:
        InvalidQuery: naming the field.
    """
    for field in source.keys() - known - IGNORED_FIELDS:
        raise InvalidQuery(str(field)[:80], f"is no field of a query: it has {', '.join(sorted(known))}")


def read_filter(said: object, field: str) -> Filter | None:
    """A filter in canonical form; None where every row is meant.

    Raises:
        InvalidQuery: naming the predicate that is wrong.
    """
    if said is None:
        return None
    try:
        return Filter.parse(read_object(said, field)) or None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join([field, *(str(part) for part in first["loc"])])
        raise InvalidQuery(place, first["msg"].removeprefix("Value error, ")) from error


_KINDS: Mapping[type[object], str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def find_report_for(
    payload: QueryPayload, reports: Mapping[str, Report], columns: Callable[[Report], Sequence[Column]]
) -> QueryRequest:
    """Find the declared report whose rows answer a payload.

    That is the one of the payload's name; else, of those that ask the vendor for the same subject, the one that needs the
    least rolling up.

    Args:
        payload: what is asked.
        reports: the declared ones, by name.
        columns: of a report's answers.

    Raises:
        UnknownReport: none asks the vendor for such a thing.
        QueryError: there are some, and none has rows for this; or several have, by different groups, and the payload says
            none.
    """
    named = reports.get(payload.subject)
    if named is not None and named.platform == payload.platform:
        return resolve_request(named, payload.interval, payload.overrides, columns(named))
    candidates = [
        report
        for report in reports.values()
        if (report.platform, report.query_type) == (payload.platform, payload.subject)
    ]
    if not candidates:
        known = sorted({report.query_type for report in reports.values() if report.platform == payload.platform})
        raise UnknownReport(
            f"no report asks {payload.platform} for {payload.subject!r}: declared are {', '.join(known) or 'none'}"
        )
    return _least_rolled_up(payload, candidates, columns)


def _least_rolled_up(
    payload: QueryPayload, candidates: Sequence[Report], columns: Callable[[Report], Sequence[Column]]
) -> QueryRequest:
    found: list[QueryRequest] = []
    mistakes: list[tuple[Report, QueryError]] = []
    for report in candidates:
        try:
            found.append(resolve_request(report, payload.interval, payload.overrides, columns(report)))
        except QueryError as error:
            mistakes.append((report, error))
    if not found:
        if len({str(error) for _, error in mistakes}) == 1:
            raise mistakes[0][1]
        reasons = "; ".join(f"{report.name}: {error}" for report, error in mistakes)
        raise QueryError(f"no declared report has rows for this ({reasons})")
    if len(found) == 1:
        return found[0]
    best = min(found, key=_distance)
    rivals = [each for each in found if _distance(each)[:2] == _distance(best)[:2]]
    if payload.overrides.group_by is None and len({each.requested.group_by for each in rivals}) > 1:
        choices = "; ".join(f"{each.declared.name} by {', '.join(each.requested.group_by)}" for each in rivals)
        raise InvalidQuery("groupBy", f"is missing, and several reports answer this: {choices}")
    return best


def _distance(wanted: QueryRequest) -> tuple[bool, float, int, str]:
    declared, asked = wanted.declared, wanted.requested
    finer = asked.step.nominal_length / declared.step.nominal_length
    return wanted.is_rolled_up, finer, len(declared.group_by) - len(asked.group_by), declared.name

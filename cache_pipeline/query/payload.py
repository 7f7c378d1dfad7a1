"""The common part of all query dialects: read untrusted JSON safely, and find the report that answers a payload."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from cache_pipeline.errors import InvalidQuery, QueryError, UnknownReport
from cache_pipeline.query.filters import Filter, FilterDeclaration, find_text_problem
from cache_pipeline.query.query_request import QueryOverrides, QueryRequest, filter_dimensions, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column

_MAX_NAMES = 200

#: Fields about the caller and the transport, which are never part of the query.
IGNORED_FIELDS = frozenset({"clientRequestId", "correlationId", "id", "metadata", "pageSize", "requestId", "traceId"})


@dataclass(frozen=True)
class QueryPayload:
    """A query read from any dialect.

    Attributes:
        platform: The platform whose dialect the payload uses.
        subject: The vendor's report id or aggregates family, or the name of a declared report.
        interval: The interval in ISO 8601, as written.
        overrides: The other fields; None means as the report declares it.
    """

    platform: str
    subject: str
    interval: str
    overrides: QueryOverrides


def find_only_account(platform: str, account_ids: Iterable[str]) -> str:
    """Return the name of a vendor's account, for queries that name none.

    Raises:
        InvalidQuery: The vendor has none, or several.
    """
    names = [name for vendor, _, name in (each.partition("/") for each in account_ids) if vendor == platform]
    if len(names) != 1:
        raise InvalidQuery(
            "payload",
            f"{platform} has {'several accounts' if names else 'no account'} here: only declared reports can be queried",
        )
    return names[0]


def read_object(value: object, field: str) -> Mapping[str, object]:
    """Return a value as a JSON object.

    Raises:
        InvalidQuery: The value is something else.
    """
    if not isinstance(value, dict):
        raise InvalidQuery(field, f"is {_kind(value)} where an object is expected")
    return cast("Mapping[str, object]", value)


def read_text(source: Mapping[str, object], field: str) -> str | None:
    """Return the text of a field, or None if the field is absent or null.

    Raises:
        InvalidQuery: The value is something else, too long, or contains a NUL character.
    """
    value = source.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidQuery(field, f"is {_kind(value)} where text is expected")
    return check_text(value, field)


def read_required_text(source: Mapping[str, object], field: str, example: str) -> str:
    """Return the text of a required field.

    Raises:
        InvalidQuery: The field is missing.
    """
    text = read_text(source, field)
    if not text:
        raise InvalidQuery(field, f"is missing: write, for example, {example}")
    return text


def read_names(source: Mapping[str, object], field: str) -> tuple[str, ...] | None:
    """Return the texts in a field's list, whose order has no meaning, or None if the field is absent or null.

    Raises:
        InvalidQuery: The value is something else.
    """
    value = source.get(field)
    if value is None:
        return None
    if not isinstance(value, list):
        raise InvalidQuery(field, f"is {_kind(value)} where a list of texts is expected")
    names = cast("list[object]", value)
    if len(names) > _MAX_NAMES:
        raise InvalidQuery(field, f"has {len(names)} entries: write at most {_MAX_NAMES}")
    for name in names:
        if not isinstance(name, str):
            raise InvalidQuery(field, f"contains {_kind(name)} where text is expected")
        if problem := find_text_problem(name):
            raise InvalidQuery(field, problem)
    return tuple(sorted(set(cast("list[str]", names))))


def check_text(text: str, field: str) -> str:
    """Return the text if a query may contain it.

    Raises:
        InvalidQuery: The text is too long, or contains a NUL character.
    """
    if problem := find_text_problem(text):
        raise InvalidQuery(field, problem)
    return text


def reject_unknown_fields(source: Mapping[str, object], known: Set[str]) -> None:
    """Reject fields that would otherwise be silently ignored.

    Raises:
        InvalidQuery: There is such a field; the error names it.
    """
    for field in source:
        if field not in known and field not in IGNORED_FIELDS:
            raise InvalidQuery(str(field)[:80], f"is not a field of a query: use {', '.join(sorted(known))}")


def read_filter(value: object, field: str, report: Report | None = None) -> Filter | None:
    """Return a filter in canonical form, or None if it matches every row.

    Args:
        value: The declaration, as JSON.
        field: Its name in the payload.
        report: The report that it filters, if that is known: names are then checked before anything is computed.

    Raises:
        InvalidQuery: A predicate is invalid; the error names it.
    """
    if value is None:
        return None
    try:
        declaration = FilterDeclaration.model_validate(read_object(value, field))
        if report is not None:
            filter_dimensions(report, declaration.dimensions)
        return Filter.from_conjunctions(declaration.to_conjunctions()) or None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join([field, *(str(part) for part in first["loc"])])
        raise InvalidQuery(place, first["msg"].removeprefix("Value error, ")) from error
    except InvalidQuery:
        raise
    except QueryError as error:
        raise InvalidQuery(field, str(error)) from error


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

    It is the report that the payload names. If it names none, it is the report that needs the least roll-up of those that
    query the vendor for the same subject.

    Args:
        payload: The query.
        reports: The declared reports by name.
        columns: Returns the columns of a report.

    Raises:
        UnknownReport: No report queries the vendor for this subject.
        QueryError: Reports for the subject exist, but none has rows for this query; or several have, grouped differently,
            and the payload does not say which groups it needs.
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
            f"no report queries {payload.platform} for {payload.subject!r}: declared are {', '.join(known) or 'none'}"
        )
    if len(candidates) == 1:
        return resolve_request(candidates[0], payload.interval, payload.overrides, columns(candidates[0]))
    return _find_closest(payload, candidates, columns)


def _find_closest(
    payload: QueryPayload, candidates: Sequence[Report], columns: Callable[[Report], Sequence[Column]]
) -> QueryRequest:
    found: list[QueryRequest] = []
    failures: list[tuple[Report, QueryError]] = []
    for report in candidates:
        try:
            found.append(resolve_request(report, payload.interval, payload.overrides, columns(report)))
        except QueryError as error:
            failures.append((report, error))
    if not found:
        if len({str(error) for _, error in failures}) == 1:
            raise failures[0][1]
        reasons = "; ".join(f"{report.name}: {error}" for report, error in failures)
        raise QueryError(f"no declared report can answer this query ({reasons})")
    if len(found) == 1:
        return found[0]
    if len(accounts := {each.declared.account_id for each in found}) > 1:
        names = ", ".join(each.declared.name for each in found)
        raise QueryError(
            f"reports of several accounts ({', '.join(sorted(accounts))}) answer this: query one of {names} by name"
        )
    closest = min(found, key=_distance)
    equally_close = [each for each in found if _distance(each)[:2] == _distance(closest)[:2]]
    if payload.overrides.group_by is None and len({each.requested.group_by for each in equally_close}) > 1:
        choices = "; ".join(f"{each.declared.name} by {', '.join(each.requested.group_by)}" for each in equally_close)
        raise InvalidQuery("groupBy", f"is missing, and several reports answer this: {choices}")
    return closest


def _distance(request: QueryRequest) -> tuple[bool, float, int, str]:
    declared, requested = request.declared, request.requested
    ratio = requested.step.nominal_length / declared.step.nominal_length
    return request.is_rolled_up, ratio, len(declared.group_by) - len(requested.group_by), declared.name

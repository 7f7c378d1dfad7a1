"""Names for ids: reads a vendor's listings into the store, and joins the stored names to answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.names import (
    ListedName,
    NameChanges,
    NameTime,
    add_names,
    distinct_ids,
    with_name_columns,
)
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, to_snake_case
from cache_pipeline.storage.answer import Answer, read_rows, replace_rows
from cache_pipeline.storage.ports.names import NameScope, NameStore
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.spec import Lookup, VendorSpec

# They take long to import, and most callers only join stored names.
if TYPE_CHECKING:
    from cache_pipeline.storage.published import EdgeTier
    from cache_pipeline.upstream.http import httpx

logger = logging.getLogger(__name__)

_FORBIDDEN = 403
#: How long a listing of names is used before it is read again.
MAX_NAMES_AGE = timedelta(days=1)
#: The shortest time for which a listing must have been empty before all its names end.
_RECHECK_DELAY = timedelta(minutes=15)


def lookups_by_column(report: Report | LiveReport, columns: Iterable[Column]) -> dict[str, str]:
    """Return the lookup that has the names of a column's ids, by column, of those columns that hold ids."""
    found = _lookup_names(report)
    return {column.name: found[column.name] for column in columns if column.name in found}


def _lookup_names(report: Report | LiveReport) -> dict[str, str]:
    """Return the lookup of each column of the report's vendor that holds ids."""
    lookups = find_vendor(report.platform).lookups
    return {to_snake_case(dimension): lookup.name for lookup in lookups for dimension in lookup.dimensions}


def needed_lookups(report: Report, columns: Iterable[Column]) -> tuple[Lookup, ...]:
    """Return the lookups of a report's vendor that have names for its columns."""
    names = set(lookups_by_column(report, columns).values())
    return tuple(lookup for lookup in find_vendor(report.platform).lookups if lookup.name in names)


@dataclass(frozen=True)
class LookupResult:
    """What reading a listing has led to.

    Attributes:
        names: The entries that the vendor listed.
        pages: The requests that it took.
        changes: What was changed in the store; None if the listing may not be read.
        problem: Why it may not be read, or why what was read is not believed yet; None if it was stored.
        is_new_problem: Whether it could be read the last time, or for another reason not.
    """

    names: int = 0
    pages: int = 0
    changes: NameChanges | None = None
    problem: str | None = None
    is_new_problem: bool = False


async def refresh_lookup(
    client: httpx.AsyncClient,
    vendor: VendorSpec[Any],
    lookup: Lookup,
    store: NameStore,
    scope: NameScope,
    now: datetime,
) -> LookupResult:
    """Read a listing to its end, and store what has changed; if a page fails, nothing is.

    A missing permission is recorded and reported once: names are a convenience, and figures do not depend on them. So is an empty
    listing where there were names: a vendor that answers nothing for a moment would end them all, and live reports would observe
    nothing. It is stored once the listing has been empty for a quarter of an hour.

    Args:
        client: Sends requests through the shared quota.
        vendor: The vendor.
        lookup: The listing.
        store: The store.
        scope: Whose names they are.
        now: The time from which new names are valid.

    Raises:
        UpstreamError: The vendor refused for another reason, or could not be reached.
        SchemaMismatch: A page does not have the documented shape.
    """
    if vendor.read_lookup is None:
        raise TypeError(f"{vendor.name} declares lookups, and no function that reads them")
    listed: dict[str, ListedName] = {}
    pages = 0
    try:
        async for page in vendor.read_lookup(client, lookup):
            listed |= page
            pages += 1
    except UpstreamRefused as error:
        if error.status != _FORBIDDEN:
            raise
        # Without the id of the request, so that the same refusal is the same problem tomorrow.
        problem = f"{lookup.path}: {error.vendor_message or 'forbidden'}"
        is_new = await asyncio.to_thread(store.record_problem, scope, lookup.name, problem, now)
        if is_new:
            logger.warning("%s has no names of %s: %s", scope.account, lookup.name, error)
        return LookupResult(problem=problem, is_new_problem=is_new)
    problem = f"{lookup.path} lists nothing, where it had names before"
    if not listed and await _is_doubtful(store, scope, lookup, problem, now):
        is_new = await asyncio.to_thread(store.record_problem, scope, lookup.name, problem, now)
        if is_new:
            logger.warning("the names of %s of %s stay as they are: %s", lookup.name, scope.account, problem)
        return LookupResult(pages=pages, problem=problem, is_new_problem=is_new)
    changes = await asyncio.to_thread(store.update, scope, lookup.name, listed, now)
    return LookupResult(len(listed), pages, changes)


async def _is_doubtful(store: NameStore, scope: NameScope, lookup: Lookup, problem: str, now: datetime) -> bool:
    """Return whether an empty listing would end names, and has not had this problem for long enough to be believed."""
    state = (await asyncio.to_thread(store.state, scope)).get(lookup.name)
    if state is None or not state.names:
        return False
    since = state.problem_since if state.problem == problem else None
    return since is None or now - since < _RECHECK_DELAY


def published_names(edge: EdgeTier, reports: Mapping[str, Report], names: Names) -> dict[str, dict[str, str]]:
    """Return the current names of the ids in the published files, by column and id. No others, because the files are public.

    Args:
        edge: The published files.
        reports: The declared reports by name.
        names: The stored names.
    """
    found: dict[str, dict[str, str]] = {}
    for name, dataset in edge.manifest().datasets.items():
        report = reports.get(name)
        columns = [] if report is None else [column for column in _lookup_names(report) if column in dataset.columns]
        if report is None or not columns:
            continue
        ids: dict[str, set[str]] = {column: set() for column in columns}
        for file in dataset.files:
            rows = edge.read_file(file)
            for column in columns:
                ids[column].update(distinct_ids(rows, column))
        for column, by_id in names.current(report, ids).items():
            found.setdefault(column, {}).update(by_id)
    return found


@dataclass(frozen=True)
class Names:
    """The stored names of one tenant.

    Attributes:
        store: The store.
        tenant: The tenant.
    """

    store: NameStore
    tenant: str

    def add(self, report: Report | LiveReport, columns: Sequence[Column], rows: pa.Table, when: NameTime) -> pa.Table:
        """Add a column with names after each column of ids. This blocks.

        Args:
            report: The report of the rows.
            columns: Its columns.
            rows: The rows.
            when: Which name of an id that was renamed.
        """
        lookups = {
            name: lookup for name, lookup in lookups_by_column(report, columns).items() if name in rows.schema.names
        }
        ids: dict[str, set[str]] = {}
        for column, lookup in lookups.items():
            ids.setdefault(lookup, set()).update(distinct_ids(rows, column))
        versions = self.store.versions(NameScope(self.tenant, report.account_id), ids)
        return add_names(rows, {column: versions[lookup] for column, lookup in lookups.items()}, when)

    def add_to_answer(
        self, report: Report | LiveReport, columns: Sequence[Column], answer: Answer, when: NameTime
    ) -> Answer:
        """Return an answer with a column of names after each column of ids. This blocks.

        Args:
            report: The report of the answer.
            columns: Its columns.
            answer: The answer.
            when: Which name of an id that was renamed.
        """
        rows = read_rows(answer.body, columns) if answer.rows is None else answer.rows
        return replace_rows(answer, self.add(report, columns, rows, when))

    def columns(self, report: Report | LiveReport, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Return columns with those of the names."""
        return with_name_columns(columns, lookups_by_column(report, columns))

    def current(self, report: Report | LiveReport, ids: Mapping[str, Collection[str]]) -> dict[str, dict[str, str]]:
        """Return the current names of ids by column and id; ids without a name are absent. This blocks.

        Args:
            report: The report whose columns they are.
            ids: The ids by column.
        """
        found = _lookup_names(report)
        wanted: dict[str, set[str]] = {}
        for column, values in ids.items():
            if column in found:
                wanted.setdefault(found[column], set()).update(values)
        versions = self.store.versions(NameScope(self.tenant, report.account_id), wanted)
        return {
            column: {
                id_: versions[found[column]][id_][-1].name for id_ in sorted(values) if id_ in versions[found[column]]
            }
            for column, values in ids.items()
            if column in found
        }

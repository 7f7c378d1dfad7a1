"""Listings of queues, users, skills, wrap-up codes, divisions, teams, flows and groups, page by page.

The vendor documents the paths, permissions, parameters and fields of a page: `entities`, `pageSize`, `pageNumber`, `total`,
`pageCount` and relative addresses of other pages, of which `nextUri` is absent on the last; teams have a cursor instead of page
numbers. Deleted users are listed only with `state=deleted` or `any`. The simulator's interpretations and choices:
- entries are in order of their names;
- other deleted things are listed no more, but deleted flows with `deleted=true`;
- a page holds at most 500 entries (the vendor's maximum is not documented);
- `name` does not regard case; it is the whole name of a wrap-up code, the beginning of a skill's and a team's, and the whole name of a queue
  but for asterisks at its ends;
- parameters that select by other properties are refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.directory import Entry
from cache_pipeline.simulator.errors import bad_request, invalid_value
from cache_pipeline.simulator.request_gate import Gate, Handler
from cache_pipeline.simulator.state import Simulator

Json = dict[str, Any]
_PAGE_SIZE, _MAX_PAGE_SIZE = 25, 500
_USER_STATES = ("active", "inactive", "deleted", "any")


@dataclass(frozen=True)
class Listing:
    """One listing.

    Attributes:
        path: Its path.
        permissions: Permissions of which any one is sufficient.
        fields: Fields that each of its entries has.
        parameters: Parameters in addition to those of pages.
        has_cursor: Whether it has a cursor instead of page numbers.
    """

    path: str
    permissions: tuple[str, ...] = ()
    fields: Mapping[str, object] | None = None
    parameters: tuple[str, ...] = ()
    has_cursor: bool = False


_BY_NAME = {"queues": r"\A{}\Z", "wrapupcodes": r"\A{}\Z", "skills": r"\A{}", "teams": r"\A{}"}
LISTINGS: Mapping[str, Listing] = {
    "queues": Listing("/api/v2/routing/queues", ("routing:queue:view",), parameters=("sortOrder",)),
    "users": Listing("/api/v2/users", parameters=("sortOrder", "state")),
    "skills": Listing("/api/v2/routing/skills", ("routing:skill:view",)),
    "wrapupcodes": Listing("/api/v2/routing/wrapupcodes", ("routing:wrapupCode:view",)),
    "divisions": Listing("/api/v2/authorization/divisions", fields={"homeDivision": False}),
    "teams": Listing("/api/v2/teams", ("groups:team:view",), has_cursor=True),
    "flows": Listing("/api/v2/flows", ("architect:flow:view",), {"type": "INBOUNDCALL", "active": True}, ("deleted",)),
    "groups": Listing("/api/v2/groups", fields={"type": "official", "visibility": "public", "rulesVisible": True}),
}


@dataclass(frozen=True)
class Lookups:
    """The endpoints of all listings."""

    simulator: Simulator

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes."""
        return [
            gate.route("GET", listing.path, "lookup", self._handler(kind, listing), listing.permissions)
            for kind, listing in LISTINGS.items()
        ]

    def _handler(self, kind: str, listing: Listing) -> Handler:
        async def handle(request: Request) -> Response:
            parameters = dict(request.query_params)
            paging = ("after", "before") if listing.has_cursor else ("pageNumber",)
            for name in parameters:
                by_name = ("name",) if kind in _BY_NAME else ()
                if name not in ("pageSize", *paging, *listing.parameters, *by_name):
                    raise bad_request(
                        f"{name} is known to the vendor but not implemented by this simulator, or unknown"
                    )
            entries = [each for each in self.simulator.directory.entries(kind) if _is_listed(kind, each, parameters)]
            entries.sort(key=lambda entry: (entry.name.casefold(), entry.id))
            if parameters.get("sortOrder", "").lower() in ("desc", "descending"):
                entries.reverse()
            return JSONResponse(_page(kind, listing, entries, parameters))

        return handle


def _has_name(kind: str, entry: Entry, name: str) -> bool:
    pattern = re.escape(name.strip("*") if kind == "queues" else name)
    if kind == "queues":
        pattern = f"{'.*' * name.startswith('*')}{pattern}{'.*' * name.endswith('*')}"
    return re.match(_BY_NAME[kind].format(pattern), entry.name, re.IGNORECASE | re.DOTALL) is not None


def _is_listed(kind: str, entry: Entry, parameters: Mapping[str, str]) -> bool:
    if kind in _BY_NAME and "name" in parameters and not _has_name(kind, entry, parameters["name"]):
        return False
    if kind == "users":
        state = parameters.get("state", "active")
        if state not in _USER_STATES:
            raise invalid_value(state, "state", ", ".join(_USER_STATES))
        return state == "any" or entry.is_deleted == (state == "deleted")
    return not entry.is_deleted or (kind == "flows" and parameters.get("deleted") == "true")


def _page(kind: str, listing: Listing, entries: list[Entry], parameters: Mapping[str, str]) -> Json:
    entities = [_entity(kind, listing, each) for each in entries]
    return numbered_page(listing.path, entities, parameters, has_cursor=listing.has_cursor)


def numbered_page(
    path: str, entities: Sequence[Json], parameters: Mapping[str, str], *, has_cursor: bool = False
) -> Json:
    """Return the page of a listing that the parameters ask for, with the addresses of other pages."""
    size = _number(parameters, "pageSize", _PAGE_SIZE)
    if size > _MAX_PAGE_SIZE:
        raise bad_request(f"pageSize: [{size}] must be no more than {_MAX_PAGE_SIZE}")
    position = "after" if has_cursor else "pageNumber"
    first = 0 if has_cursor else 1
    number = _number(parameters, position, first)
    start = number if has_cursor else (number - 1) * size
    more = {name: value for name, value in parameters.items() if name not in ("pageSize", position)}

    def address(number: int) -> str:
        return f"{path}?{urlencode({**more, 'pageSize': size, position: number})}"

    page: Json = {"entities": list(entities[start : start + size]), "selfUri": address(number)}
    if start + size < len(entities):
        page["nextUri"] = address(start + size if has_cursor else number + 1)
    if not has_cursor:
        count = -(-len(entities) // size)
        page |= {"pageSize": size, "pageNumber": number, "total": len(entities), "pageCount": count}
        page |= {"firstUri": address(1), "lastUri": address(max(1, count))}
    return page


def _number(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < min(default, 1):
        raise invalid_value(text, name, "a positive whole number")
    return int(text)


def _entity(kind: str, listing: Listing, entry: Entry) -> Json:
    entity: Json = {
        "id": entry.id,
        "name": entry.name,
        **(listing.fields or {}),
        "selfUri": f"{listing.path}/{entry.id}",
    }
    if entry.division is not None:
        entity["division"] = {"id": entry.division, "selfUri": f"/api/v2/authorization/divisions/{entry.division}"}
    if kind in ("users", "skills", "groups"):
        entity["state"] = "deleted" if entry.is_deleted else "active"
    if kind == "flows":
        entity["deleted"] = entry.is_deleted
    return entity

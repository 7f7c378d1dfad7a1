"""The listings of Genesys Cloud that are answered from stored names: queues, users, skills and others.

Of an entry its id, its name and its address are stored, and of a user or a flow whether it was deleted. All other fields are absent.
Entries are in order of their names, as the vendor documents it for queues.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlencode

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.names import DeletedNames, NamedEntry, NameMatch, NamePage, NameSelection
from cache_pipeline.query.payload import check_text
from cache_pipeline.vendors.genesys.lookups import LOOKUPS
from cache_pipeline.vendors.served import ListingPath, ListingQuery

_PAGE_SIZE, _MAX_PAGE_SIZE = 25, 500
_MAX_IDS = 500
_ORDERS = {"asc": False, "ascending": False, "desc": True, "descending": True}
_USER_STATES = {"any": DeletedNames.included, "deleted": DeletedNames.alone}
_PATHS = {lookup.name: lookup.path for lookup in LOOKUPS}


def _no_fields(_entry: NamedEntry) -> Mapping[str, object]:
    return {}


def _state(entry: NamedEntry) -> Mapping[str, object]:
    """Return the state of a deleted user. Whether another is active or inactive is not stored."""
    return {"state": "deleted"} if entry.is_deleted else {}


def _deleted(entry: NamedEntry) -> Mapping[str, object]:
    return {"deleted": entry.is_deleted}


def _given_name(text: str) -> NameMatch:
    """Read a name that may have an asterisk at its beginning and its end for any other characters."""
    name = text.removeprefix("*")
    has_end = name.endswith("*")
    return NameMatch(name.removesuffix("*"), may_begin_earlier=text.startswith("*"), may_end_later=has_end)


def _beginning(text: str) -> NameMatch:
    return NameMatch(text, may_end_later=True)


@dataclass(frozen=True)
class _Listing:
    """One listing.

    Attributes:
        lookup: The lookup that has its names.
        parameters: Parameters in addition to those of pages.
        read_name: Reads the parameter `name` as the vendor documents it; None if it documents none, or too little.
        has_cursor: Whether it has a cursor instead of page numbers.
        fields: Returns the fields of an entry beside id, name and address.
    """

    lookup: str
    parameters: tuple[str, ...] = ()
    read_name: Callable[[str], NameMatch] | None = None
    has_cursor: bool = False
    fields: Callable[[NamedEntry], Mapping[str, object]] = _no_fields

    @property
    def path(self) -> str:
        return _PATHS[self.lookup]

    @property
    def position(self) -> str:
        """The parameter that says where a page begins."""
        return "after" if self.has_cursor else "pageNumber"


_LISTINGS = (
    _Listing("queues", ("id", "sortOrder"), _given_name),
    _Listing("users", ("id", "sortOrder", "state"), fields=_state),
    _Listing("skills", ("id",), _beginning),
    _Listing("wrapupcodes", ("id", "sortBy", "sortOrder"), NameMatch),
    _Listing("divisions", ("id", "sortBy")),
    _Listing("teams", read_name=_beginning, has_cursor=True),
    _Listing("flows", ("deleted", "id", "sortBy", "sortOrder"), fields=_deleted),
    _Listing("groups", ("id", "sortOrder")),
)


def _read(listing: _Listing, parameters: Sequence[tuple[str, str]]) -> ListingQuery:
    """Read the parameters of a URL.

    Raises:
        InvalidQuery: One is unknown, given twice, or cannot be answered from names.
    """
    known = (*listing.parameters, *(("name",) if listing.read_name else ()), "pageSize", listing.position)
    ids: list[str] = []
    given: dict[str, str] = {}
    for name, value in parameters:
        if name not in known:
            raise InvalidQuery(
                name[:80],
                f"cannot be answered from the stored names of {listing.lookup}: use {', '.join(sorted(known))}",
            )
        if name == "id":
            ids += [each for each in check_text(value, name).split(",") if each]
        elif name in given:
            raise InvalidQuery(name, "is given twice: give it once")
        else:
            given[name] = value
    if len(ids) > _MAX_IDS:
        raise InvalidQuery("id", f"has {len(ids)} ids: ask for at most {_MAX_IDS}")
    size = _number(given, "pageSize", _PAGE_SIZE, 1, _MAX_PAGE_SIZE)
    start = _number(given, "after", 0, 0) if listing.has_cursor else (_number(given, "pageNumber", 1, 1) - 1) * size
    selection = NameSelection(
        start=start,
        size=size,
        ids=tuple(ids) if any(name == "id" for name, _ in parameters) else None,
        name=_name(listing, given),
        deleted=_deleted_names(listing, given),
        is_descending=_is_descending(given),
    )
    more = [(name, value) for name, value in parameters if name not in ("pageSize", listing.position)]
    return ListingQuery(selection, partial(_write, listing, selection, more))


def _number(given: Mapping[str, str], name: str, default: int, least: int, most: int = 10_000_000) -> int:
    text = given.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,8}", text) or not least <= int(text) <= most:
        raise InvalidQuery(name, f"is not a whole number from {least} to {most}")
    return int(text)


def _name(listing: _Listing, given: Mapping[str, str]) -> NameMatch | None:
    """Return which names are asked for."""
    if listing.read_name is None or not given.get("name"):
        return None
    match = listing.read_name(check_text(given["name"], "name"))
    if "*" in match.text and listing.read_name is not _beginning:
        raise InvalidQuery(
            "name",
            "has an asterisk where the vendor documents none: write it at the beginning or end of a queue's name",
        )
    return match


def _deleted_names(listing: _Listing, given: Mapping[str, str]) -> DeletedNames:
    if listing.lookup == "users" and (state := given.get("state", "active")) != "active":
        if state not in _USER_STATES:
            raise InvalidQuery(
                "state", "is not stored of users but for deleted ones: use active (all others), deleted or any"
            )
        return _USER_STATES[state]
    if (deleted := given.get("deleted", "false").lower()) not in ("true", "false"):
        raise InvalidQuery("deleted", "is neither true nor false")
    return DeletedNames.included if deleted == "true" else DeletedNames.excluded


def _is_descending(given: Mapping[str, str]) -> bool:
    if given.get("sortBy", "name") != "name":
        raise InvalidQuery("sortBy", "is not stored: use name")
    order = given.get("sortOrder", "asc").lower()
    if order not in _ORDERS:
        raise InvalidQuery("sortOrder", f"is unknown: use one of {', '.join(_ORDERS)}")
    return _ORDERS[order]


def _write(
    listing: _Listing, selection: NameSelection, more: Sequence[tuple[str, str]], page: NamePage
) -> Mapping[str, object]:
    start, size = selection.start, selection.size

    def address(position: int) -> str:
        return f"{listing.path}?{urlencode([*more, ('pageSize', size), (listing.position, position)])}"

    number = start // size + 1
    document: dict[str, object] = {
        "entities": [
            {"id": each.id, "name": each.name, **listing.fields(each), "selfUri": f"{listing.path}/{each.id}"}
            for each in page.entries
        ],
        "selfUri": address(start if listing.has_cursor else number),
    }
    if start + size < page.total:
        document["nextUri"] = address(start + size if listing.has_cursor else number + 1)
    if not listing.has_cursor:
        count = -(-page.total // size)
        document |= {"pageSize": size, "pageNumber": number, "total": page.total, "pageCount": count}
        document |= {"firstUri": address(1), "lastUri": address(max(1, count))}
    return document


SERVED_LISTINGS = tuple(ListingPath(each.path, each.lookup, partial(_read, each)) for each in _LISTINGS)

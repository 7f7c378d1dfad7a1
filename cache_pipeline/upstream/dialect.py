"""What quota and error handling need to know of one vendor's HTTP: its words for errors, limits and jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cache_pipeline.upstream.http import httpx

#: Key of a response's extensions that holds the dialect of its vendor. The transport sets it.
DIALECT = "dialect"
#: Key of a request's extensions that holds its path as it may be shown. The transport sets it.
SHOWN_PATH = "shown_path"
#: A part of a path that holds a digit is an id, or a version, and not the name of an endpoint.
_ID = re.compile(r"[^/]*[0-9][^/]*")


class LimitScope(StrEnum):
    """Which requests count against a limit."""

    client = "client"
    organisation = "organisation"
    endpoint = "endpoint"
    jobs = "jobs"


@dataclass(frozen=True)
class NamedLimit:
    """A limit as a vendor names it.

    Attributes:
        name: The vendor's name.
        scope: Which requests count: those of one client, of all clients together, of one endpoint, or jobs that run.
        value: How many of them are allowed.
        window_seconds: Length of the limit's window; None if it is that of the account's own limit, or if it limits jobs.
        endpoint: The endpoint that a limit of one is for; None if it is the one that answered.
    """

    name: str
    scope: LimitScope
    value: int
    window_seconds: float | None = None
    endpoint: str | None = None


def name_no_limit(_body: Mapping[str, object]) -> NamedLimit | None:
    """Return None: the vendor does not name the limit that was reached."""
    return None


def find_endpoint(method: str, path: str) -> str:
    """Return a name for the endpoint of a request: its method and path without ids."""
    return f"{method} {'/'.join('*' if _ID.fullmatch(part) else part for part in path.split('/'))}"


def start_no_job(_method: str, _path: str) -> bool:
    """Return False: requests start no jobs whose number is limited."""
    return False


def is_no_job(_path: str) -> bool:
    """Return False: no path is that of a job whose number is limited."""
    return False


def find_no_job(_method: str, _path: str, _response: httpx.Response) -> str | None:
    """Return None: the answer is about no job whose number is limited."""
    return None


@dataclass(frozen=True)
class Dialect:
    """How a vendor speaks HTTP. The defaults are those of vendors that document nothing of the kind.

    Attributes:
        request_id_fields: Fields of an error body that hold the vendor's id of the request.
        read_limit: Returns the limit that the body of a 429 names, or None.
        find_endpoint: Returns the name of the endpoint that a method and path belong to, for limits of single endpoints.
        starts_job: Returns whether a request of this method and path starts a job that counts against a limit of jobs.
        is_job: Returns whether a path is that of a single job, whose answers say whether it has ended.
        started_job: Returns the id of the job that the answer to a method and path says was started.
        ended_job: Returns the id of the job that the answer says has ended, or no longer exists.
        shown_path: Returns a path as logs and errors may show it: without ids that give access by themselves.
    """

    request_id_fields: tuple[str, ...] = ()
    read_limit: Callable[[Mapping[str, object]], NamedLimit | None] = name_no_limit
    find_endpoint: Callable[[str, str], str] = find_endpoint
    starts_job: Callable[[str, str], bool] = start_no_job
    is_job: Callable[[str], bool] = is_no_job
    started_job: Callable[[str, str, httpx.Response], str | None] = find_no_job
    ended_job: Callable[[str, str, httpx.Response], str | None] = find_no_job
    shown_path: Callable[[str], str] = str


COMMON_DIALECT = Dialect()


def dialect_of(response: httpx.Response) -> Dialect:
    """Return the dialect of the vendor that answered."""
    dialect: object = response.extensions.get(DIALECT)
    return dialect if isinstance(dialect, Dialect) else COMMON_DIALECT


def shown_path(request: httpx.Request) -> str:
    """Return the path of a request as logs and errors may show it; the query string is left out, because it may hold secrets."""
    path: object = request.extensions.get(SHOWN_PATH)
    return path if isinstance(path, str) else request.url.path

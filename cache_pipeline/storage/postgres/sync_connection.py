"""Open one connection outside any pool, and tell a URL that will never work from a server that cannot be reached now."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from cache_pipeline.errors import HistoryRefused, HistoryUnavailable
from cache_pipeline.storage.postgres.connect_timeout import with_connect_timeout
from cache_pipeline.storage.postgres.connections import WITHOUT_PREPARED_STATEMENTS
from cache_pipeline.storage.postgres.schemas import UNREACHABLE, server_name

#: Server messages that mean a URL will never work, with the cause as we report it. Messages are matched in English, which most
#: servers use; a refusal in another language is only reported later, after retries.
_REFUSALS = (
    (r"password authentication failed|no password supplied", "user or password is wrong"),
    (r'database ".*" does not exist', "its database does not exist: create it"),
    (r'role ".*" does not exist', "its user does not exist"),
    (
        r"is not permitted to log in|no pg_hba\.conf entry|permission denied for database",
        "its user may not log in from here",
    ),
    (r"server does not support SSL|certificate verify failed|certificate .* does not match", "TLS cannot be agreed on"),
)


def connect(postgres_url: str, *, autocommit: bool = False) -> psycopg.Connection[Any]:
    """Connect to the server.

    Raises:
        HistoryRefused: The URL cannot be parsed, or the server refuses its user, password or database.
        HistoryUnavailable: The server cannot be reached.
    """
    _check_url(postgres_url)
    try:
        return psycopg.connect(with_connect_timeout(postgres_url), autocommit=autocommit, **WITHOUT_PREPARED_STATEMENTS)
    except psycopg.OperationalError as error:
        for pattern, cause in _REFUSALS:
            if re.search(pattern, str(error)):
                raise HistoryRefused(f"PostgreSQL refuses CACHE_PIPELINE_POSTGRES_URL: {cause}") from error
        raise HistoryUnavailable(f"{server_name(postgres_url)} {UNREACHABLE}") from error


def _check_url(postgres_url: str) -> None:
    """Refuse a URL that cannot be parsed.

    Raises:
        HistoryRefused: It cannot.
    """
    try:
        conninfo_to_dict(postgres_url)
    except psycopg.ProgrammingError:
        # The driver's message quotes the part that it cannot parse, which may be the password.
        raise HistoryRefused(
            "CACHE_PIPELINE_POSTGRES_URL cannot be parsed: expected postgresql://host:port/database, with user and password before "
            "the host and their special characters percent-encoded"
        ) from None

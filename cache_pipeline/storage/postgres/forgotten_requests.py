"""Remembers which of the vendors' requests to delete a person's data were followed, each with its receipts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from cache_pipeline.storage.postgres.sync_connection import connect


@contextmanager
def open_forgotten_requests(postgres_url: str) -> Generator[ForgottenRequests]:
    """Connect to a server.

    Raises:
        HistoryUnavailable: It cannot be reached, or refuses the login.
    """
    with connect(postgres_url, autocommit=True) as connection:
        yield ForgottenRequests(connection)


class ForgottenRequests:
    """The requests of all accounts."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def ids(self, account_id: str) -> set[str]:
        """Return the ids of an account's requests that were followed."""
        found = self._connection.execute(
            "SELECT request FROM cache_pipeline_state.forgotten_request WHERE account = %s", [account_id]
        )
        return {request for (request,) in found}

    def record(self, account_id: str, request: str, receipts: Sequence[Mapping[str, Any]]) -> None:
        """Record that a request was followed, so that it is not followed again."""
        self._connection.execute(
            "INSERT INTO cache_pipeline_state.forgotten_request (account, request, receipts) VALUES (%s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [account_id, request, Jsonb(list(receipts))],
        )

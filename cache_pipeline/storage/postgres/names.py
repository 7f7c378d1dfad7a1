"""The names of ids in PostgreSQL, each with the time for which it was valid."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime

from psycopg import Cursor
from psycopg.rows import TupleRow

from cache_pipeline.query.names import (
    ListedName,
    NameChanges,
    NamedEntry,
    NameMatch,
    NamePage,
    NameSelection,
    NameVersion,
    merge_names,
)
from cache_pipeline.storage.ports.names import LookupState, NameScope
from cache_pipeline.storage.postgres.sync_pool import SyncPool, lend_connection, sync_connection_pool

_CONNECTIONS = 2
_NO_CHANGES = NameChanges({}, frozenset(), {})
_OF_LOOKUP = "tenant = %(tenant)s AND account = %(account)s AND lookup = %(lookup)s"
# The row is also the lock: two listings of one kind are stored one after the other.
_LOCK = """
    INSERT INTO cache_pipeline_state.lookup (tenant, account, lookup) VALUES (%(tenant)s, %(account)s, %(lookup)s)
    ON CONFLICT (tenant, account, lookup) DO UPDATE SET lookup = excluded.lookup
    RETURNING listed_at
"""
_LATEST = f"""
    SELECT DISTINCT ON (id) id, name, valid_from, valid_to FROM cache_pipeline_state.entity_name
    WHERE {_OF_LOOKUP} ORDER BY id, valid_from DESC
"""  # noqa: S608 - a constant of this module
_CLOSE = f"""
    UPDATE cache_pipeline_state.entity_name SET valid_to = %(at)s
    WHERE {_OF_LOOKUP} AND id = ANY (%(closed)s) AND valid_to IS NULL
"""  # noqa: S608 - a constant of this module
# A name that ended at the instant at which it began was replaced by the second listing of that instant.
_OPEN = """
    INSERT INTO cache_pipeline_state.entity_name (tenant, account, lookup, id, valid_from, valid_to, name)
    SELECT %(tenant)s, %(account)s, %(lookup)s, id, %(at)s, %(valid_to)s, name
    FROM unnest(%(ids)s::text[], %(names)s::text[]) AS given (id, name)
    ON CONFLICT (tenant, account, lookup, id, valid_from) DO UPDATE SET name = excluded.name, valid_to = excluded.valid_to
"""
_LISTED = f"""
    UPDATE cache_pipeline_state.lookup SET listed_at = %(at)s, problem = NULL, problem_since = NULL WHERE {_OF_LOOKUP}
"""  # noqa: S608 - a constant of this module
_RECORD_PROBLEM = """
    INSERT INTO cache_pipeline_state.lookup AS l (tenant, account, lookup, problem, problem_since)
    VALUES (%(tenant)s, %(account)s, %(lookup)s, %(problem)s, %(at)s)
    ON CONFLICT (tenant, account, lookup) DO UPDATE SET problem = excluded.problem, problem_since = excluded.problem_since
    WHERE l.problem IS DISTINCT FROM excluded.problem
    RETURNING lookup
"""
_VERSIONS = """
    SELECT n.lookup, n.id, n.name, n.valid_from, n.valid_to
    FROM unnest(%(lookups)s::text[], %(ids)s::text[]) AS given (lookup, id)
    JOIN cache_pipeline_state.entity_name AS n
        ON n.tenant = %(tenant)s AND n.account = %(account)s AND n.lookup = given.lookup AND n.id = given.id
    ORDER BY n.lookup, n.id, n.valid_from
"""
_VALID_IDS = f"""
    SELECT id FROM cache_pipeline_state.entity_name WHERE {_OF_LOOKUP} AND valid_to IS NULL ORDER BY id
"""  # noqa: S608 - a constant of this module
_SELECTED = f"""
    FROM ({_LATEST}) AS latest
    WHERE (%(ids)s::text[] IS NULL OR id = ANY (%(ids)s))
        AND (%(name)s::text IS NULL OR lower(name) LIKE lower(%(name)s))
        AND (%(deleted)s = 'included' OR (valid_to IS NOT NULL) = (%(deleted)s = 'alone'))
"""
_TOTAL = f"SELECT count(*) {_SELECTED}"
_PAGE = f"SELECT id, name, valid_to IS NOT NULL {_SELECTED}"
_ASCENDING = f'{_PAGE} ORDER BY lower(name) COLLATE "C", id COLLATE "C" LIMIT %(size)s OFFSET %(start)s'
_DESCENDING = f'{_PAGE} ORDER BY lower(name) COLLATE "C" DESC, id COLLATE "C" DESC LIMIT %(size)s OFFSET %(start)s'
_STATE = """
    SELECT l.lookup, l.listed_at, l.problem, l.problem_since, (
        SELECT count(*) FROM cache_pipeline_state.entity_name AS n
        WHERE n.tenant = l.tenant AND n.account = l.account AND n.lookup = l.lookup AND n.valid_to IS NULL
    )
    FROM cache_pipeline_state.lookup AS l WHERE l.tenant = %(tenant)s AND l.account = %(account)s ORDER BY l.lookup
"""


@contextmanager
def open_names(postgres_url: str) -> Generator[PostgresNameStore]:
    """Open the names of a server; connect on first use, and close the connections at the end."""
    with sync_connection_pool(postgres_url, "names", _CONNECTIONS, autocommit=False) as pool:
        yield PostgresNameStore(pool)


class PostgresNameStore:
    """Names in ``cache_pipeline_state.entity_name``."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    @contextmanager
    def _transaction(self) -> Generator[Cursor[TupleRow]]:
        with lend_connection(self._pool, "the tables of names") as connection, connection.cursor() as cursor:
            yield cursor

    def update(self, scope: NameScope, lookup: str, listed: Mapping[str, ListedName], at: datetime) -> NameChanges:
        """Store what a complete listing changes, unless a later one was stored. See the port for the arguments."""
        where = {"tenant": scope.tenant, "account": scope.account, "lookup": lookup, "at": at}
        with self._transaction() as cursor:
            locked = cursor.execute(_LOCK, where).fetchone()
            if locked is not None and locked[0] is not None and locked[0] > at:
                return _NO_CHANGES
            latest = {
                id_: NameVersion(name, valid_from, valid_to)
                for id_, name, valid_from, valid_to in cursor.execute(_LATEST, where)
            }
            changes = merge_names(latest, listed)
            if changes.closed:
                cursor.execute(_CLOSE, {**where, "closed": list(changes.closed)})
            for names, valid_to in ((changes.opened, None), (changes.deleted_before, at)):
                if names:
                    given = {"ids": list(names), "names": list(names.values()), "valid_to": valid_to}
                    cursor.execute(_OPEN, {**where, **given})
            cursor.execute(_LISTED, where)
        return changes

    def record_problem(self, scope: NameScope, lookup: str, problem: str, at: datetime) -> bool:
        """Record why a listing cannot be used. Return False if the same was recorded before."""
        where = {"tenant": scope.tenant, "account": scope.account, "lookup": lookup, "problem": problem, "at": at}
        with self._transaction() as cursor:
            return cursor.execute(_RECORD_PROBLEM, where).fetchone() is not None

    def versions(self, scope: NameScope, ids: Mapping[str, Collection[str]]) -> dict[str, dict[str, list[NameVersion]]]:
        """Return the names of ids by lookup and id, oldest first; ids without a name are absent."""
        pairs = [(lookup, id_) for lookup, wanted in ids.items() for id_ in wanted]
        found: dict[str, dict[str, list[NameVersion]]] = {lookup: {} for lookup in ids}
        if pairs:
            where = {"tenant": scope.tenant, "account": scope.account}
            given = {"lookups": [lookup for lookup, _ in pairs], "ids": [id_ for _, id_ in pairs]}
            with self._transaction() as cursor:
                for lookup, id_, name, valid_from, valid_to in cursor.execute(_VERSIONS, {**where, **given}):
                    found[lookup].setdefault(id_, []).append(NameVersion(name, valid_from, valid_to))
        return found

    def valid_ids(self, scope: NameScope, lookup: str) -> list[str]:
        """Return the ids of a listing whose names are still valid, sorted."""
        where = {"tenant": scope.tenant, "account": scope.account, "lookup": lookup}
        with self._transaction() as cursor:
            return [id_ for (id_,) in cursor.execute(_VALID_IDS, where)]

    def page(self, scope: NameScope, lookup: str, selection: NameSelection) -> NamePage:
        """Return some entries of a listing; those that are no longer listed are deleted."""
        values = {
            "tenant": scope.tenant,
            "account": scope.account,
            "lookup": lookup,
            "ids": None if selection.ids is None else list(selection.ids),
            "name": None if selection.name is None else _like(selection.name),
            "deleted": selection.deleted,
            "size": selection.size,
            "start": selection.start,
        }
        with self._transaction() as cursor:
            total = cursor.execute(_TOTAL, values).fetchone()
            rows = cursor.execute(_DESCENDING if selection.is_descending else _ASCENDING, values).fetchall()
        return NamePage([NamedEntry(*row) for row in rows], total[0] if total else 0)

    def state(self, scope: NameScope) -> dict[str, LookupState]:
        """Return what is known of each listing."""
        with self._transaction() as cursor:
            rows = cursor.execute(_STATE, {"tenant": scope.tenant, "account": scope.account}).fetchall()
        return {
            lookup: LookupState(listed_at, names, problem, since) for lookup, listed_at, problem, since, names in rows
        }


def _like(match: NameMatch) -> str:
    """Return the pattern of LIKE for a part of a name."""
    text = match.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"{'%' * match.may_begin_earlier}{text}{'%' * match.may_end_later}"

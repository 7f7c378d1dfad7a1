"""The function beside a report's view that returns the rows of the view as they were known at an instant.

It runs with the privileges of its owner, as the view does, so only readers of the view may execute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.ranges import text_array
from cache_pipeline.storage.postgres.versions import rows_as_of

_ARGUMENTS = SQL("timestamptz, timestamptz, timestamptz")
_BODY = SQL(
    """
DECLARE
    _earliest timestamptz;
    _known tstzmultirange;
BEGIN
    -- Wait for what is being stored now, which may be stamped with an earlier instant.
    PERFORM pg_advisory_lock_shared(hashtextextended({series}, 0));
    PERFORM pg_advisory_unlock_shared(hashtextextended({series}, 0));
    SELECT greatest(since, clock_timestamp() - {keep}) INTO _earliest FROM cache_pipeline_state.time_travel
    WHERE series = {series};
    IF $1 IS NULL OR $1 > clock_timestamp() THEN
        RAISE EXCEPTION 'as_of % is not an instant that has passed', coalesce($1::text, 'null') USING ERRCODE = '22023';
    ELSIF _earliest IS NULL OR $1 < _earliest THEN
        RAISE EXCEPTION 'as_of % is too early: superseded figures of {name} are kept since %', $1,
            coalesce(_earliest::text, 'its next fetch') USING ERRCODE = '22023';
    END IF;
    _known := cache_pipeline_state.final_as_of({series}, {metrics}, $1, tstzmultirange(tstzrange($2, $3)));
    RETURN QUERY SELECT {shown} FROM ({rows}) AS r CROSS JOIN (SELECT _known AS final, _known AS stored) AS c
    WHERE _known @> r.interval_start;
END
"""
)


def as_of_statements(
    schema: str, series: Series, columns: Sequence[str], shown: Composable, comment: str, keep: timedelta
) -> list[Composed]:
    """Return the statements that create the function; the view must exist.

    Args:
        schema: The schema of the view.
        series: The view's series.
        columns: The columns of the report's table that the view reads.
        shown: The view's columns, computed from a row ``r`` and its coverage ``c``.
        comment: The function's comment.
        keep: How long superseded figures are kept.
    """
    report, function = series.report, as_of_function(schema, series.report.name)
    condition = SQL("series = {} AND interval_start >= $2 AND interval_start < $3").format(Literal(series.id))
    body = _BODY.format(
        series=Literal(series.id),
        keep=SQL("{} * interval '1 second'").format(Literal(keep.total_seconds())),
        name=Identifier(report.name),
        metrics=text_array(report.metrics),
        shown=shown,
        rows=rows_as_of(report, SQL(", ").join(map(Identifier, columns)), condition, SQL("$1")),
    )
    return [
        SQL(
            "CREATE FUNCTION {}(as_of timestamptz, from_start timestamptz DEFAULT '-infinity',"
            " to_start timestamptz DEFAULT 'infinity') RETURNS SETOF {} LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp AS {}"
        ).format(function, Identifier(schema, report.name), Literal(body.as_string())),
        SQL("REVOKE ALL ON FUNCTION {}({}) FROM PUBLIC").format(function, _ARGUMENTS),
        SQL("COMMENT ON FUNCTION {}({}) IS {}").format(function, _ARGUMENTS, Literal(comment)),
    ]


def as_of_function(schema: str, name: str) -> Identifier:
    """Return the name of a report's function."""
    return Identifier(schema, f"{name}_as_of")


def drop_as_of(schema: str, name: str) -> Composed:
    """Return the statement that drops a report's function, which depends on the view."""
    return SQL("DROP FUNCTION IF EXISTS {}({})").format(as_of_function(schema, name), _ARGUMENTS)


def grant_as_of(schema: str, name: str, reader: Composable) -> Composed:
    """Return the statement by which a reader of the view may execute the function."""
    return SQL("GRANT EXECUTE ON FUNCTION {}({}) TO {}").format(as_of_function(schema, name), _ARGUMENTS, reader)

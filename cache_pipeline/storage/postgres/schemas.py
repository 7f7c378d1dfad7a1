"""The PostgreSQL schemas that the history tier uses, and the text of the error when the server is unreachable."""

from __future__ import annotations

from cache_pipeline.query.series import tenant_schema

#: The tables that rows are written to. Analysts query views of them.
HISTORY_SCHEMA = "history"
#: The tables with what rows of history were before they were replaced, for the reports that keep that.
VERSIONS_SCHEMA = "history_versions"
#: Not plain cache_pipeline: a role of that name has its schema first in the search path, and Dagster its tables there.
OWN_SCHEMA = "cache_pipeline_state"

#: Our own words instead of the server's, which may contain parts of the URL.
UNREACHABLE = "cannot be reached: check CACHE_PIPELINE_POSTGRES_URL and that the server is up"


def reporting_schema(tenant: str) -> str:
    """Return the schema of the views that a tenant's analysts query."""
    return tenant_schema("reporting", tenant)


def server_name(postgres_url: str) -> str:
    """Return the name of a server in messages: its host, but nothing else of its URL."""
    # Imported here: the names of the schemas need no driver.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return f"PostgreSQL at {conninfo_to_dict(postgres_url).get('host', 'the default address')}"
    except psycopg.Error:
        return "PostgreSQL (its URL cannot be parsed)"

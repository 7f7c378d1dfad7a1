"""The PostgreSQL schemas that the history tier uses, and the text of the error when the server is unreachable."""

from __future__ import annotations

#: The tables that rows are written to. Analysts query views of them.
HISTORY_SCHEMA = "history"
#: The views of the default tenant; those of another one have its name as suffix.
REPORTING_SCHEMA = "reporting"
#: Not plain cache_pipeline: a role of that name has its schema first in the search path, and Dagster its tables there.
OWN_SCHEMA = "cache_pipeline_state"

#: Our own words instead of the server's, which may contain parts of the URL.
UNREACHABLE = "cannot be reached: check CACHE_PIPELINE_POSTGRES_URL and that the server is up"

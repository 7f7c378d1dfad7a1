"""The schemas of PostgreSQL that the history tier lives in, and what is said where they cannot be used."""

from __future__ import annotations

HISTORY_SCHEMA = "history"
#: Not plain cache_pipeline: a role of that name has its schema first in the search path, and Dagster its tables there.
OWN_SCHEMA = "cache_pipeline_state"

#: Said without the server's own words, which may hold what was in the URL.
UNREACHABLE = "cannot be reached: check CACHE_PIPELINE_POSTGRES_URL and that the server is up"

"""The first schema: coverage, the ledger of upstream queries, completeness results, names, API jobs and API keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

# Not plain "0001": a database from before the squash would count as up to date.
revision = "0001_baseline"
down_revision = None
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"
_INSTANT = sa.TIMESTAMP(timezone=True)
_NOW = sa.text("now()")


def upgrade() -> None:
    """Create every table that does not depend on a report's declaration."""
    _create_coverage_tables()
    _create_chunk_tables()
    _create_ledger()
    _create_name_tables()
    _create_api_tables()


def downgrade() -> None:
    """Drop every table that `upgrade` creates."""
    for table in (
        "dead_letter",
        "ad_hoc_series",
        "submitted_query",
        "access_token",
        "api_key",
        "job",
        "entity_name",
        "lookup",
        "upstream_query",
        "truncation_stats",
        "chunk_result",
        "fetch_time",
        "coverage",
    ):
        op.drop_table(table, schema=_SCHEMA)


def _metrics_column() -> sa.Column[list[str]]:
    return sa.Column("metrics", postgresql.ARRAY(sa.Text), primary_key=True, comment="in alphabetical order")


def _create_coverage_tables() -> None:
    """Create the tables that say which intervals of which metrics of a series history holds, and when each was fetched.

    Metrics that were stored together share a row. At any time, a metric is in at most one row of a series.
    """
    empty = sa.text("'{}'::tstzmultirange")
    op.create_table(
        "coverage",
        sa.Column("series", sa.Text, primary_key=True),
        _metrics_column(),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column(
            "definition", postgresql.JSONB, nullable=False, comment="the canonical query without interval and metrics"
        ),
        sa.Column("final", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("provisional", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("unverified", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("unexpected", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("watermark", _INSTANT),
        schema=_SCHEMA,
    )
    op.create_table(
        "fetch_time",
        sa.Column("series", sa.Text, primary_key=True),
        _metrics_column(),
        sa.Column("fetched_at", _INSTANT, primary_key=True),
        sa.Column("intervals", postgresql.TSTZMULTIRANGE, nullable=False),
        sa.Index("fetch_time_intervals", "intervals", postgresql_using="gist"),
        schema=_SCHEMA,
    )


def _create_chunk_tables() -> None:
    """Create the tables of completeness results and of what they say about a vendor's row limit."""
    op.create_table(
        "chunk_result",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("series", sa.Text, nullable=False),
        sa.Column("interval", postgresql.TSTZRANGE, nullable=False),
        sa.Column("expected_rows", sa.Double, nullable=False),
        sa.Column("expectation_source", sa.Text, nullable=False),
        sa.Column("final_rows", sa.BigInteger, nullable=False, comment="rows in buckets before the watermark"),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("duration_seconds", sa.Double, nullable=False),
        sa.Column("watermark", _INSTANT, nullable=False),
        sa.Column("fetched_at", _INSTANT, nullable=False),
        sa.Column("total_rows", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("parts", sa.Integer, nullable=False, server_default="0", comment="0 if the interval was not split"),
        sa.Column("metrics", postgresql.ARRAY(sa.Text), nullable=False, comment="what the query asked for"),
        sa.Column("sent_rows", postgresql.JSONB, comment="rows by bucket start, if the vendor split groups unasked"),
        sa.Index("chunk_result_series_fetched_at", "series", "fetched_at"),
        sa.Index("chunk_result_series_sent", "series", postgresql_where=sa.text("sent_rows IS NOT NULL")),
        schema=_SCHEMA,
    )
    op.create_table(
        "truncation_stats",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column(
            "longest_complete", sa.BigInteger, nullable=False, comment="final rows of the longest complete answer"
        ),
        sa.Column("shortest_truncated", sa.BigInteger, comment="rows of the shortest truncated answer"),
        sa.Column(
            "most_bytes_complete", sa.BigInteger, nullable=False, server_default="-1", comment="the same in bytes"
        ),
        sa.Column("fewest_bytes_truncated", sa.BigInteger, comment="the same in bytes"),
        sa.Column("truncated_at", _INSTANT),
        sa.Column(
            "shortest_refused", sa.Interval, comment="the shortest interval that the vendor refused as too large"
        ),
        sa.Column("refused_at", _INSTANT),
        sa.Column(
            "failed_once",
            postgresql.JSONB,
            comment="lengths in seconds of intervals whose job failed, unlike its halves",
        ),
        schema=_SCHEMA,
    )


def _create_ledger() -> None:
    """Create the ledger, with at most one open entry for each series and interval."""
    op.create_table(
        "upstream_query",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("series", sa.Text, nullable=False, comment="with the metrics, unlike in the other tables"),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("interval", postgresql.TSTZRANGE, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("oauth_client", sa.Text),
        sa.Column("handle", sa.Text, comment="the vendor's job id"),
        sa.Column("requested_at", _INSTANT, nullable=False, comment="the time that the rows reflect"),
        sa.Column("submitted_at", _INSTANT),
        sa.Column("owner", sa.Text, nullable=False, comment="host and process id, for the operator"),
        sa.Column("lease_until", _INSTANT, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False, comment="fencing token: increases with every owner"),
        sa.Column("ended_at", _INSTANT),
        sa.Column("detail", sa.Text),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('intent', 'ambiguous', 'submitted', 'ready'))",
            name="upstream_query_state_matches_end",
        ),
        sa.Index(
            "upstream_query_open", "series", "interval", unique=True, postgresql_where=sa.text("ended_at IS NULL")
        ),
        sa.Index("upstream_query_lease_until", "lease_until"),
        schema=_SCHEMA,
    )


def _create_name_tables() -> None:
    """Create the tables of the names of ids, each with the time for which it was valid, and of their listings."""
    scope = [sa.Column(name, sa.Text, primary_key=True) for name in ("tenant", "account", "lookup")]
    op.create_table(
        "lookup",
        *scope,
        sa.Column("listed_at", _INSTANT, comment="when it was last read completely"),
        sa.Column("problem", sa.Text, comment="why it cannot be read"),
        schema=_SCHEMA,
    )
    op.create_table(
        "entity_name",
        *(sa.Column(column.name, sa.Text, primary_key=True) for column in scope),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("valid_from", _INSTANT, primary_key=True),
        sa.Column("valid_to", _INSTANT, comment="NULL while it is valid"),
        sa.Column("name", sa.Text, nullable=False),
        schema=_SCHEMA,
    )


def _create_api_tables() -> None:
    """Create the tables of the HTTP API: its jobs, its keys with their access tokens, queries submitted at the vendors' paths, and queue messages that name no job."""
    is_open = sa.text("state IN ('queued', 'running')")
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("key", sa.Text, nullable=False, comment="key of the canonical query; at most one open job per key"),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("request", postgresql.JSONB, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("requested_by", postgresql.ARRAY(sa.Text), nullable=False, comment="ids of API keys"),
        sa.Column("state", sa.Text, nullable=False, server_default="queued"),
        sa.Column("created_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("published_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("not_before", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("started_at", _INSTANT),
        sa.Column("finished_at", _INSTANT),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", _INSTANT),
        sa.Column("percent", sa.Double, nullable=False, server_default="0"),
        sa.Column("chunks_done", sa.Integer, nullable=False, server_default="0"),
        sa.Column("chunks_total", sa.Integer),
        sa.Column("problem", postgresql.JSONB),
        sa.Column("context", postgresql.JSONB, nullable=False, server_default="{}"),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="job_state"),
        sa.Index("job_open_key", "key", unique=True, postgresql_where=is_open),
        sa.Index("job_open", "state", "lane", "created_at", postgresql_where=is_open),
        sa.Index("job_finished", "finished_at"),
        sa.Index("job_key_finished", "key", "finished_at"),
        schema=_SCHEMA,
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False, comment="SHA-256 of the secret part, which is not stored"),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("reports", postgresql.ARRAY(sa.Text), comment="NULL for all"),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("created_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("revoked_at", _INSTANT),
        sa.Column("may_refresh", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("is_operator", sa.Boolean, nullable=False, server_default=sa.false()),
        schema=_SCHEMA,
    )
    op.create_table(
        "access_token",
        sa.Column("hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of the token, which is not stored"),
        sa.Column("key_id", sa.Text, sa.ForeignKey(f"{_SCHEMA}.api_key.id"), nullable=False),
        sa.Column("issued_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("expires_at", _INSTANT, nullable=False),
        sa.Index("access_token_of_key", "key_id", "issued_at"),
        sa.Index("access_token_expiry", "expires_at"),
        schema=_SCHEMA,
    )
    op.create_table(
        "submitted_query",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False, comment="id of the API key"),
        sa.Column("path", sa.Text, nullable=False, comment="the vendor's path at which it was submitted"),
        sa.Column("body", postgresql.JSONB, nullable=False),
        sa.Column("job_id", sa.Uuid, comment="the job that fetches what was not stored"),
        sa.Column("submitted_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("expires_at", _INSTANT, nullable=False),
        sa.Column("answer", sa.LargeBinary, comment="compressed; NULL until one of several pages was read"),
        sa.Index("submitted_query_of_caller", "caller", "submitted_at"),
        sa.Index("submitted_query_expiry", "expires_at"),
        schema=_SCHEMA,
    )
    op.create_table(
        "ad_hoc_series",
        sa.Column("name", sa.Text, primary_key=True, comment="also the name of its table"),
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("declaration", postgresql.JSONB, nullable=False),
        sa.Column("metrics", postgresql.ARRAY(sa.Text), nullable=False, comment="all that the table has columns for"),
        sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("last_requested_at", _INSTANT, nullable=False, server_default=_NOW),
        schema=_SCHEMA,
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("dead_lettered_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        schema=_SCHEMA,
    )

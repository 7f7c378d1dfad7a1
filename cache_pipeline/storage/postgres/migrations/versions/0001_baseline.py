"""The first schema: coverage, the ledger of upstream queries, completeness results, API jobs and API keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

# Not plain "0001": a database of before the squash would pass for one that is up to date.
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
    _create_api_tables()


def downgrade() -> None:
    """Drop every table that `upgrade` creates."""
    for table in (
        "parked_message",
        "api_key",
        "job",
        "upstream_query",
        "answer_length",
        "chunk",
        "fetched",
        "coverage",
    ):
        op.drop_table(table, schema=_SCHEMA)


def _create_coverage_tables() -> None:
    """Create the tables that say which intervals of a series history holds, and when each was fetched."""
    empty = sa.text("'{}'::tstzmultirange")
    op.create_table(
        "coverage",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("meaning", postgresql.JSONB, nullable=False),
        sa.Column("complete", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("provisional", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("watermark", _INSTANT),
        schema=_SCHEMA,
    )
    op.create_table(
        "fetched",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("fetched_at", _INSTANT, primary_key=True),
        sa.Column("covers", postgresql.TSTZMULTIRANGE, nullable=False),
        sa.Index("fetched_covers", "covers", postgresql_using="gist"),
        schema=_SCHEMA,
    )


def _create_chunk_tables() -> None:
    """Create the tables of completeness results and of what they say about a vendor's row limit."""
    op.create_table(
        "chunk",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("series", sa.Text, nullable=False),
        sa.Column("interval", postgresql.TSTZRANGE, nullable=False),
        sa.Column("expected", sa.Double, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("got", sa.BigInteger, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("watermark", _INSTANT, nullable=False),
        sa.Column("fetched_at", _INSTANT, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("parts", sa.Integer, nullable=False, server_default="0"),
        sa.Index("chunk_series_fetched_at", "series", "fetched_at"),
        schema=_SCHEMA,
    )
    op.create_table(
        "answer_length",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("longest_whole", sa.BigInteger, nullable=False, comment="final rows of the longest one found whole"),
        sa.Column("least_cut", sa.BigInteger, comment="rows of the shortest one that proved to be cut off"),
        sa.Column("cut_at", _INSTANT),
        schema=_SCHEMA,
    )


def _create_ledger() -> None:
    """Create the ledger, with at most one open entry for each series and interval."""
    op.create_table(
        "upstream_query",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("series", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("span", postgresql.TSTZRANGE, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("oauth_client", sa.Text),
        sa.Column("handle", sa.Text, comment="the vendor's own name of the job"),
        sa.Column("asked_at", _INSTANT, nullable=False, comment="the figures are of then"),
        sa.Column("submitted_at", _INSTANT),
        sa.Column("owner", sa.Text, nullable=False, comment="process and machine, for whoever looks"),
        sa.Column("lease_until", _INSTANT, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False, comment="grows with every owner"),
        sa.Column("ended_at", _INSTANT),
        sa.Column("note", sa.Text),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('intent', 'ambiguous', 'submitted', 'done'))", name="state_and_end_agree"
        ),
        sa.Index("upstream_query_open", "series", "span", unique=True, postgresql_where=sa.text("ended_at IS NULL")),
        sa.Index("upstream_query_lease_until", "lease_until"),
        schema=_SCHEMA,
    )


def _create_api_tables() -> None:
    """Create the tables of the HTTP API: its jobs, its keys, and queue messages that name no job."""
    is_open = sa.text("state IN ('queued', 'running')")
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("key", sa.Text, nullable=False, comment="the query's meaning; one open job at most has it"),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("request", postgresql.JSONB, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("asked_by", postgresql.ARRAY(sa.Text), nullable=False),
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
        sa.Column("hash", sa.LargeBinary, nullable=False, comment="SHA-256 of the secret part, which is not kept"),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("reports", postgresql.ARRAY(sa.Text), comment="NULL for all"),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("created_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("revoked_at", _INSTANT),
        sa.Column("may_refresh", sa.Boolean, nullable=False, server_default=sa.false()),
        schema=_SCHEMA,
    )
    op.create_table(
        "parked_message",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("parked_at", _INSTANT, nullable=False, server_default=_NOW),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        schema=_SCHEMA,
    )

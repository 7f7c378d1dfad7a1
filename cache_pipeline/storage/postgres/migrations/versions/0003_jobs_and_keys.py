"""Jobs of the HTTP API, its keys, and messages that no worker could make anything of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"
_NOW = sa.text("now()")
_OPEN = sa.text("state IN ('queued', 'running')")


def upgrade() -> None:
    """Create ``job``, ``api_key`` and ``parked_message``."""
    instant = sa.TIMESTAMP(timezone=True)
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
        sa.Column("created_at", instant, nullable=False, server_default=_NOW),
        sa.Column("published_at", instant, nullable=False, server_default=_NOW),
        sa.Column("not_before", instant, nullable=False, server_default=_NOW),
        sa.Column("started_at", instant),
        sa.Column("finished_at", instant),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", instant),
        sa.Column("percent", sa.Double, nullable=False, server_default="0"),
        sa.Column("chunks_done", sa.Integer, nullable=False, server_default="0"),
        sa.Column("chunks_total", sa.Integer),
        sa.Column("problem", postgresql.JSONB),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="job_state"),
        sa.Index("job_open_key", "key", unique=True, postgresql_where=_OPEN),
        sa.Index("job_open", "state", "lane", "created_at", postgresql_where=_OPEN),
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
        sa.Column("created_at", instant, nullable=False, server_default=_NOW),
        sa.Column("revoked_at", instant),
        schema=_SCHEMA,
    )
    op.create_table(
        "parked_message",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("parked_at", instant, nullable=False, server_default=_NOW),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        schema=_SCHEMA,
    )


def downgrade() -> None:
    """Drop all three."""
    for table in ("parked_message", "api_key", "job"):
        op.drop_table(table, schema=_SCHEMA)

"""Coverage of each series, and a record of every upstream answer that was judged."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create ``coverage`` and ``chunk``."""
    empty = sa.text("'{}'::tstzmultirange")
    op.create_table(
        "coverage",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("meaning", postgresql.JSONB, nullable=False),
        sa.Column("complete", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("provisional", postgresql.TSTZMULTIRANGE, nullable=False, server_default=empty),
        sa.Column("watermark", sa.TIMESTAMP(timezone=True)),
        sa.Column("provisional_fetched_at", sa.TIMESTAMP(timezone=True)),
        schema="cache_pipeline_state",
    )
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
        sa.Column("watermark", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("fetched_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Index("chunk_series_fetched_at", "series", "fetched_at"),
        schema="cache_pipeline_state",
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("chunk", schema="cache_pipeline_state")
    op.drop_table("coverage", schema="cache_pipeline_state")

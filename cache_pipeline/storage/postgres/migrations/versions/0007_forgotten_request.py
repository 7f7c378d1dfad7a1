"""The vendors' requests to delete a person's data that were followed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007_forgotten_request"
down_revision = "0006_key_limits"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Create the table. A receipt does not name the person."""
    op.create_table(
        "forgotten_request",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("request", sa.Text, primary_key=True),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("receipts", JSONB, nullable=False),
        schema=_SCHEMA,
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("forgotten_request", schema=_SCHEMA)

"""The salt of pseudonyms, while a person is being forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0005_forget_salt"
down_revision = "0004_warehouse_export"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Create the table, which has at most one row."""
    op.create_table(
        "forget_salt",
        sa.Column("is_only", sa.Boolean, sa.CheckConstraint("is_only"), primary_key=True, server_default=sa.true()),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        schema=_SCHEMA,
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("forget_salt", schema=_SCHEMA)

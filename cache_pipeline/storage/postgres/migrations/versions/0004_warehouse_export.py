"""What was exported to warehouses."""

import sqlalchemy as sa
from alembic import op

revision = "0004_warehouse_export"
down_revision = "0003_time_travel"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"
_INSTANT = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create the table of exported partitions."""
    op.create_table(
        "warehouse_export",
        sa.Column("warehouse", sa.Text, primary_key=True, comment="URL without credentials"),
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("report", sa.Text, primary_key=True),
        sa.Column("partition_start", _INSTANT, primary_key=True),
        sa.Column("partition_end", _INSTANT, nullable=False),
        sa.Column("version", sa.Text, nullable=False, comment="identifies the exported coverage and declaration"),
        sa.Column("is_final", sa.Boolean, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("exported_at", _INSTANT, nullable=False),
        schema=_SCHEMA,
    )


def downgrade() -> None:
    """Drop the table: the next export sends everything again."""
    op.drop_table("warehouse_export", schema=_SCHEMA)

"""Since when a listing of names has its problem."""

import sqlalchemy as sa
from alembic import op

revision = "0008_problem_since"
down_revision = "0007_forgotten_request"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Add the column."""
    op.add_column("lookup", sa.Column("problem_since", sa.DateTime(timezone=True)), schema=_SCHEMA)


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("lookup", "problem_since", schema=_SCHEMA)

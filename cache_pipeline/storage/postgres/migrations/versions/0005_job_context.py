"""Under which correlation id and trace a job was asked for, so that its worker goes on under the same."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Add ``job.context``."""
    context = sa.Column("context", postgresql.JSONB, nullable=False, server_default="{}")
    op.add_column("job", context, schema=_SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("job", "context", schema=_SCHEMA)

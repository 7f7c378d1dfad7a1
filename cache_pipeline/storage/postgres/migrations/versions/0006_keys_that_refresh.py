"""Whether an API key may have the vendor asked again before what is kept is too old."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Add ``may_refresh``; the keys there are may not."""
    column = sa.Column("may_refresh", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("api_key", column, schema=_SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("api_key", "may_refresh", schema=_SCHEMA)

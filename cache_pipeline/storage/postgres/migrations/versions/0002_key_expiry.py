"""API keys may expire."""

import sqlalchemy as sa
from alembic import op

revision = "0002_key_expiry"
down_revision = "0001_baseline"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Add the time from which a key no longer works."""
    op.add_column("api_key", sa.Column("expires_at", sa.TIMESTAMP(timezone=True)), schema=_SCHEMA)


def downgrade() -> None:
    """Drop that time: expired keys work again."""
    op.drop_column("api_key", "expires_at", schema=_SCHEMA)

"""API keys may be limited to query types, paths and divisions, and keep the lifetime that they were created with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006_key_limits"
down_revision = "0005_forget_salt"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"
_LISTS = ("queries", "paths", "divisions")


def upgrade() -> None:
    """Add the limits, of which existing keys have none, and the lifetime of those that expire."""
    for name in _LISTS:
        op.add_column("api_key", sa.Column(name, postgresql.ARRAY(sa.Text)), schema=_SCHEMA)
    op.add_column("api_key", sa.Column("lifetime", postgresql.INTERVAL), schema=_SCHEMA)
    op.execute(f"UPDATE {_SCHEMA}.api_key SET lifetime = expires_at - created_at")  # noqa: S608 - constants


def downgrade() -> None:
    """Revoke the keys that have such limits, which would end with the columns, and drop the columns."""
    limited = " OR ".join(f"{name} IS NOT NULL" for name in _LISTS)
    op.execute(
        f"UPDATE {_SCHEMA}.api_key SET revoked_at = now() WHERE revoked_at IS NULL AND ({limited})"  # noqa: S608 - constants
    )
    for name in (*_LISTS, "lifetime"):
        op.drop_column("api_key", name, schema=_SCHEMA)

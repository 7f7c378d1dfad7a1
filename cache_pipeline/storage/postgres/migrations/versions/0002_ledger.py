"""The ledger of upstream queries, and when each part of a series was fetched."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Create ``upstream_query`` and ``fetched``, which takes the place of the one age for all that is provisional."""
    op.create_table(
        "upstream_query",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("series", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("span", postgresql.TSTZRANGE, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("oauth_client", sa.Text),
        sa.Column("handle", sa.Text, comment="the vendor's own name of the job"),
        sa.Column("asked_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="the figures are of then"),
        sa.Column("submitted_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("owner", sa.Text, nullable=False, comment="process and machine, for whoever looks"),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False, comment="grows with every owner"),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("note", sa.Text),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('intent', 'ambiguous', 'submitted', 'done'))", name="state_and_end_agree"
        ),
        schema=_SCHEMA,
    )
    op.create_index(
        "upstream_query_open",
        "upstream_query",
        ["series", "span"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
        schema=_SCHEMA,
    )
    op.create_index("upstream_query_lease_until", "upstream_query", ["lease_until"], schema=_SCHEMA)
    op.create_table(
        "fetched",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("fetched_at", sa.TIMESTAMP(timezone=True), primary_key=True),
        sa.Column("covers", postgresql.TSTZMULTIRANGE, nullable=False),
        schema=_SCHEMA,
    )
    op.create_index("fetched_covers", "fetched", ["covers"], postgresql_using="gist", schema=_SCHEMA)
    op.execute(
        f"INSERT INTO {_SCHEMA}.fetched SELECT series, provisional_fetched_at, provisional FROM {_SCHEMA}.coverage"  # noqa: S608 - no input
        " WHERE provisional_fetched_at IS NOT NULL AND NOT isempty(provisional)"
    )
    op.drop_column("coverage", "provisional_fetched_at", schema=_SCHEMA)


def downgrade() -> None:
    """Drop both, and give what is provisional one age again."""
    op.add_column("coverage", sa.Column("provisional_fetched_at", sa.TIMESTAMP(timezone=True)), schema=_SCHEMA)
    op.execute(
        f"UPDATE {_SCHEMA}.coverage AS c SET provisional_fetched_at = (SELECT min(fetched_at) FROM {_SCHEMA}.fetched AS f"  # noqa: S608 - no input
        " WHERE f.series = c.series AND f.covers && c.provisional)"
    )
    op.drop_table("fetched", schema=_SCHEMA)
    op.drop_table("upstream_query", schema=_SCHEMA)

"""What is known of the lengths of each series' answers, and what a judged answer was in all."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"


def upgrade() -> None:
    """Create ``answer_length``, from the answers that were judged so far; ``chunk`` tells length and parts."""
    op.create_table(
        "answer_length",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("longest_whole", sa.BigInteger, nullable=False, comment="final rows of the longest one found whole"),
        sa.Column("least_cut", sa.BigInteger, comment="rows of the shortest one that proved to be cut off"),
        sa.Column("cut_at", sa.TIMESTAMP(timezone=True)),
        schema=_SCHEMA,
    )
    op.execute(
        f"INSERT INTO {_SCHEMA}.answer_length (series, longest_whole) "  # noqa: S608 - a constant
        f"SELECT series, max(got) FROM {_SCHEMA}.chunk WHERE verdict IN ('whole', 'thin') GROUP BY series"
    )
    op.add_column("chunk", sa.Column("length", sa.BigInteger, nullable=False, server_default="0"), schema=_SCHEMA)
    op.add_column("chunk", sa.Column("parts", sa.Integer, nullable=False, server_default="0"), schema=_SCHEMA)


def downgrade() -> None:
    """Undo it."""
    op.drop_column("chunk", "parts", schema=_SCHEMA)
    op.drop_column("chunk", "length", schema=_SCHEMA)
    op.drop_table("answer_length", schema=_SCHEMA)

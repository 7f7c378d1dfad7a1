"""What history knew at earlier times: when intervals became final or stopped being it, and since when that is recorded."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003_time_travel"
down_revision = "0002_key_expiry"
branch_labels = None
depends_on = None

_SCHEMA = "cache_pipeline_state"
_INSTANT = sa.TIMESTAMP(timezone=True)
#: Goes back from the present coverage, change by change, and metric by metric.
_FINAL_AS_OF = f"""
CREATE FUNCTION {_SCHEMA}.final_as_of(
    wanted_series text, wanted_metrics text[], as_of timestamptz, within tstzmultirange DEFAULT '{{(,)}}'
) RETURNS tstzmultirange LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted_metric text;
    known tstzmultirange;
    change record;
    result tstzmultirange := within;
BEGIN
    FOREACH wanted_metric IN ARRAY wanted_metrics LOOP
        SELECT coalesce(range_agg(c.final), '{{}}') * within INTO known FROM {_SCHEMA}.coverage AS c
        WHERE c.series = wanted_series AND wanted_metric = ANY (c.metrics);
        FOR change IN
            SELECT f.gained, f.lost FROM {_SCHEMA}.finality_change AS f
            WHERE f.series = wanted_series AND f.changed_at > as_of AND wanted_metric = ANY (f.metrics)
                AND (f.gained && within OR f.lost && within)
            ORDER BY f.changed_at DESC, f.id DESC
        LOOP
            known := known - change.gained + change.lost;
        END LOOP;
        result := result * known;
    END LOOP;
    RETURN result;
END $$
"""  # noqa: S608 - a constant of this module


def upgrade() -> None:
    """Create the tables, and the function that reads them. A table of versions is made by `migrate` for each report that has one."""
    op.create_table(
        "time_travel",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("since", _INSTANT, nullable=False, comment="every change since then is kept"),
        schema=_SCHEMA,
    )
    op.create_table(
        "finality_change",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("series", sa.Text, nullable=False),
        sa.Column("metrics", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("changed_at", _INSTANT, nullable=False),
        sa.Column("gained", postgresql.TSTZMULTIRANGE, nullable=False, comment="became final"),
        sa.Column("lost", postgresql.TSTZMULTIRANGE, nullable=False, comment="stopped being final"),
        sa.Index("finality_change_series_changed_at", "series", "changed_at"),
        schema=_SCHEMA,
    )
    op.execute(_FINAL_AS_OF)


def downgrade() -> None:
    """Drop what `upgrade` creates."""
    op.execute(f"DROP FUNCTION {_SCHEMA}.final_as_of")
    for table in ("finality_change", "time_travel"):
        op.drop_table(table, schema=_SCHEMA)

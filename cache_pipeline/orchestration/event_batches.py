"""How many of a step's events Dagster writes at once.

Its storage opens a connection for every write, so a backfill of a hundred partitions, written one by one, spends as long on
its materialisations as on their figures.
"""

from collections.abc import MutableMapping

_SIZE = "DAGSTER_EVENT_BATCH_SIZE"


def write_events_in_batches(environment: MutableMapping[str, str]) -> None:
    """Let Dagster write fifty materialisations at once in this process, unless the environment says otherwise already.

    What a step has recorded while it ran is not among them: a run that is killed keeps that.
    """
    environment.setdefault(_SIZE, "50")

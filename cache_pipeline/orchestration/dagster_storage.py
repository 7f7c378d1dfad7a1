"""How Dagster's storage is written, while a run records what becomes of each partition.

Left to itself it opens a connection for every read and write, so a backfill of a hundred partitions, each with its
materialisations and its checks' verdicts, spends as long on connections as on figures.
"""

from collections.abc import MutableMapping

import dagster as dg

_BATCH_SIZE = "DAGSTER_EVENT_BATCH_SIZE"

# A server that is started anew is away for longer, so that no connection from before is written to.
_KEPT_SECONDS = 1


def write_events_in_batches(environment: MutableMapping[str, str]) -> None:
    """Let Dagster write fifty materialisations at once in this process, unless the environment says otherwise already.

    What a step has recorded while it ran is not among them: a run that is killed keeps that.
    """
    environment.setdefault(_BATCH_SIZE, "50")


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Let a run's process use a connection to Dagster's storage again within a second, one for each kind of storage.

    The webserver asks Dagster for the same, hence the name of what is called; no statement is timed out here. They are closed
    with the process, or when the instance is collected.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=_KEPT_SECONDS, max_overflow=-1)

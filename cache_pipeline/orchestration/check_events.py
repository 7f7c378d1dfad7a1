"""What checks find of single partitions, and how it is told to Dagster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dagster as dg

Log = Callable[[dg.AssetMaterialization | dg.AssetCheckEvaluation], None]


def event_log(context: dg.OpExecutionContext) -> Log:
    """Writes into the log of a run. A runless event would do only once for a check of a partition."""

    def log(event: dg.AssetMaterialization | dg.AssetCheckEvaluation) -> None:
        # Its signature leaves out the evaluations that it takes.
        context.log_event(event)  # pyright: ignore[reportArgumentType]

    return log


@dataclass(frozen=True)
class CheckFinding:
    """What a check found for one partition.

    Attributes:
        problem: empty where it passed.
        metadata: figures that show why.
        note: what is to be said of one that passed.
    """

    problem: str = ""
    metadata: "Mapping[str, dg.RawMetadataValue]" = field(default_factory=lambda: {})  # noqa: PIE807 - keeps its type
    note: str = ""


def partition_evaluation(
    key: dg.AssetKey, check_name: str, partition_key: str, finding: CheckFinding, *, blocking: bool = True
) -> dg.AssetCheckEvaluation:
    """One partition's verdict of a check, as an event; one that does not block warns."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check_name,
        passed=not finding.problem,
        partition=partition_key,
        metadata=finding.metadata,
        description=finding.problem or finding.note or None,
        blocking=blocking,
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
    )

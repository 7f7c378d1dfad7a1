"""Check results of single partitions, and the Dagster events that record them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dagster as dg

EventLogger = Callable[[dg.AssetMaterialization | dg.AssetCheckEvaluation], None]


def event_logger(context: dg.OpExecutionContext) -> EventLogger:
    """Return a function that writes events into the log of a run.

    Dagster accepts only one runless evaluation for a check of a partition, so evaluations go into the run's log.
    """

    def log(event: dg.AssetMaterialization | dg.AssetCheckEvaluation) -> None:
        # The annotation of log_event omits the check evaluations that it accepts.
        context.log_event(event)  # pyright: ignore[reportArgumentType]

    return log


@dataclass(frozen=True)
class CheckFinding:
    """Result of a check for one partition.

    Attributes:
        problem: Why the check failed; empty if it passed.
        metadata: Figures that show the reason.
        note: Remark on a check that passed.
    """

    problem: str = ""
    metadata: "Mapping[str, dg.RawMetadataValue]" = field(default_factory=lambda: {})  # noqa: PIE807 - keeps its type
    note: str = ""


def partition_evaluation(
    key: dg.AssetKey, check_name: str, partition_key: str, finding: CheckFinding, *, blocking: bool = True
) -> dg.AssetCheckEvaluation:
    """Build the event for one partition's check result; a check that does not block has severity WARN."""
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

"""What is left of a report: partitions that failed, are incomplete, unpublished or provisional, with reasons and attempts.

Bounded attempts go quiet when they are used up; the check that shows this does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import dagster as dg

_MOST_ROWS = 200


class PartitionState(StrEnum):
    """Why a partition is left; those before the last are a person's concern when they stay."""

    incomplete = "incomplete"
    failed = "failed"
    unpublished = "unpublished"
    provisional = "provisional"


@dataclass(frozen=True)
class PartitionProblem:
    """What went wrong with a partition: the latest reason, and how often."""

    reason: str
    attempts: int


@dataclass(frozen=True)
class OpenPartition:
    """One partition that is not done."""

    key: str
    standing: PartitionState
    reason: str
    attempts: int


def find_open_partitions(
    order: Sequence[str],
    *,
    incomplete: Mapping[str, PartitionProblem],
    failed: Mapping[str, PartitionProblem],
    unpublished: Iterable[str],
    provisional: Iterable[str],
) -> list[OpenPartition]:
    """One entry for each partition that is left, by its gravest standing, in order of the partitions.

    Args:
        order: all partitions looked at.
        incomplete: those whose completeness check did not pass.
        failed: those whose last run failed.
        unpublished: those that are staged and not in history.
        provisional: those whose figures are not final.
    """
    found = {
        key: OpenPartition(key, PartitionState.provisional, "the vendor may still change them", 0)
        for key in provisional
    }
    found |= {
        key: OpenPartition(key, PartitionState.unpublished, "staged, and not in history", 0) for key in unpublished
    }
    for standing, troubles in ((PartitionState.failed, failed), (PartitionState.incomplete, incomplete)):
        found |= {key: OpenPartition(key, standing, each.reason, each.attempts) for key, each in troubles.items()}
    return [found[key] for key in order if key in found]


def digest(left: Iterable[OpenPartition]) -> str:
    """Differs where what is left does; short, for a cursor."""
    return hashlib.sha256(repr(sorted(map(repr, left))).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ReportSnapshot:
    """What a sensor has told of each report, and where it goes on; its cursor.

    Attributes:
        last: the report that was looked at last.
        digests: of what was left then, by report.
    """

    last: str = ""
    digests: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, cursor: str | None) -> ReportSnapshot:
        """The value that was written; nothing where there is none yet."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def written(self) -> str:
        """For a cursor."""
        return json.dumps({"last": self.last, "digests": self.digests})

    def turn(self, names: Iterable[str], at_most: int) -> list[str]:
        """The reports that are next, each once; after the last name come the first."""
        order = sorted(names)
        after = [name for name in order if name > self.last]
        return [*after, *(name for name in order if name <= self.last)][:at_most]

    def after(self, name: str, told: str) -> ReportSnapshot:
        """With one more report looked at."""
        return ReportSnapshot(name, {**self.digests, name: told})


def evaluation_of(key: dg.AssetKey, check_name: str, left: Sequence[OpenPartition]) -> dg.AssetCheckEvaluation:
    """The check's verdict: passed where nothing but provisional figures is left."""
    counts = {standing: sum(each.standing is standing for each in left) for standing in PartitionState}
    grave = [each for each in left if each.standing is not PartitionState.provisional]
    told = ", ".join(f"{count} {standing}" for standing, count in counts.items() if count)
    first = f"; {grave[0].key}: {grave[0].reason}" if grave else ""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check_name,
        passed=not grave,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{told}{first}" if told else "nothing is left",
        metadata={**{str(standing): count for standing, count in counts.items()}, "left": _table(left)},
    )


def _table(left: Sequence[OpenPartition]) -> dg.TableMetadataValue:
    gravest_first = sorted(left, key=lambda each: list(PartitionState).index(each.standing))
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "partition": each.key,
                    "standing": str(each.standing),
                    "reason": each.reason,
                    "attempts": each.attempts,
                }
            )
            for each in gravest_first[:_MOST_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("partition", "string"),
                dg.TableColumn("standing", "string"),
                dg.TableColumn("reason", "string"),
                dg.TableColumn("attempts", "int"),
            ]
        ),
    )

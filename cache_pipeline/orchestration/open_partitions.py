"""Open partitions of a report: incomplete, failed, unpublished, missing or provisional, each with its reason and attempts.

Pure apart from the events it builds. Sensors stop retrying after a bounded number of attempts; the check built here
keeps showing what is still open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import dagster as dg

#: Entries that the check lists.
MAX_ROWS = 200


class PartitionState(StrEnum):
    """Why a partition is open, most severe first; all but ``provisional`` need a person if they stay."""

    incomplete = "incomplete"
    failed = "failed"
    unpublished = "unpublished"
    missing = "missing"
    provisional = "provisional"


@dataclass(frozen=True)
class PartitionProblem:
    """What went wrong with a partition: the latest reason, and how many attempts failed."""

    reason: str
    attempts: int


@dataclass(frozen=True)
class OpenPartition:
    """One partition that is not finished, or a stretch of adjacent missing ones.

    Attributes:
        key: Key of the partition, or the first and the last key of a stretch.
        state: Why it is open.
        reason: The same in words.
        attempts: How many attempts failed.
        count: Number of partitions.
    """

    key: str
    state: PartitionState
    reason: str
    attempts: int
    count: int = 1


def find_open_partitions(
    order: Sequence[str],
    *,
    incomplete: Mapping[str, PartitionProblem],
    failed: Mapping[str, PartitionProblem],
    unpublished: Iterable[str],
    provisional: Iterable[str],
    missing: Iterable[OpenPartition] = (),
) -> list[OpenPartition]:
    """Return one entry for each open partition, by its most severe state, in order of the partitions.

    Missing partitions come first: they are stretches of any length, and most of them are older than the others.

    Args:
        order: All partitions to examine, in order.
        incomplete: Partitions whose completeness check failed.
        failed: Partitions whose last run failed.
        unpublished: Partitions that are staged but not in history.
        provisional: Partitions whose figures are not final.
        missing: Stretches of partitions that history does not hold.
    """
    found = {
        key: OpenPartition(key, PartitionState.provisional, "the vendor may still change the figures", 0)
        for key in provisional
    }
    found |= {
        key: OpenPartition(key, PartitionState.unpublished, "staged, but not in history", 0) for key in unpublished
    }
    for state, problems in ((PartitionState.failed, failed), (PartitionState.incomplete, incomplete)):
        found |= {key: OpenPartition(key, state, each.reason, each.attempts) for key, each in problems.items()}
    return [*missing, *(found[key] for key in order if key in found)]


def missing_entry(first: str, last: str, count: int) -> OpenPartition:
    """Return the entry for a stretch of adjacent partitions that history does not hold, or only in part."""
    key = first if first == last else f"{first} to {last}"
    return OpenPartition(
        key, PartitionState.missing, "history does not hold all of it, and no run is fetching it", 0, count
    )


def compute_digest(partitions: Iterable[OpenPartition]) -> str:
    """Return a short digest that differs when the open partitions differ; for a cursor."""
    return hashlib.sha256(repr(sorted(map(repr, partitions))).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class OpenPartitionsCursor:
    """Cursor of the sensor that reports open partitions.

    Attributes:
        last: Name of the report that was examined last.
        digests: Digest of each report's open partitions when it was examined.
    """

    last: str = ""
    digests: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def parse(cls, cursor: str | None) -> OpenPartitionsCursor:
        """Parse a sensor's cursor; without one, nothing was examined yet."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def serialize(self) -> str:
        """Return the cursor as text."""
        return json.dumps({"last": self.last, "digests": self.digests})

    def next_reports(self, names: Iterable[str], at_most: int) -> list[str]:
        """Return the reports to examine next, each once; after the last name the first ones follow."""
        order = sorted(names)
        after = [name for name in order if name > self.last]
        return [*after, *(name for name in order if name <= self.last)][:at_most]

    def advance(self, name: str, digest: str) -> OpenPartitionsCursor:
        """Return the cursor after one more report was examined."""
        return OpenPartitionsCursor(name, {**self.digests, name: digest})


def build_evaluation(key: dg.AssetKey, check_name: str, partitions: Sequence[OpenPartition]) -> dg.AssetCheckEvaluation:
    """Build the check's result; it passes if nothing but provisional figures is open."""
    counts = {state: sum(each.count for each in partitions if each.state is state) for state in PartitionState}
    problems = [each for each in partitions if each.state is not PartitionState.provisional]
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    first = f"; {problems[0].key}: {problems[0].reason}" if problems else ""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check_name,
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{summary}{first}" if summary else "no open partitions",
        metadata={**{str(state): count for state, count in counts.items()}, "open partitions": _table(partitions)},
    )


def _table(partitions: Sequence[OpenPartition]) -> dg.TableMetadataValue:
    most_severe_first = sorted(partitions, key=lambda each: list(PartitionState).index(each.state))
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "partition": each.key,
                    "state": str(each.state),
                    "reason": each.reason,
                    "attempts": each.attempts,
                }
            )
            for each in most_severe_first[:MAX_ROWS]
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("partition", "string"),
                dg.TableColumn("state", "string"),
                dg.TableColumn("reason", "string"),
                dg.TableColumn("attempts", "int"),
            ]
        ),
    )

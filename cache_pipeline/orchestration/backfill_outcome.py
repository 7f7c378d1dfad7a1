"""What a backfill tells whoever started its process, as JSON; free of Dagster, for readers that do without it."""

from typing import TypedDict


class CheckOutcome(TypedDict):
    """How one check stands after the run; of its earlier evaluations, how many failed before it passed."""

    check: str
    passed: bool
    failed_before: int


class BackfillOutcome(TypedDict):
    """What one backfill came to."""

    report: str
    run_id: str
    success: bool
    partitions: int
    error: str
    checks: list[CheckOutcome]

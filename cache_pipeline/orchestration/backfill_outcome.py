"""Result of a backfill process as JSON; imports no Dagster, so that the command line can read it cheaply."""

from typing import TypedDict


class CheckOutcome(TypedDict):
    """State of one check after the run, and how many of its earlier evaluations failed."""

    check: str
    passed: bool
    failed_before: int


class BackfillOutcome(TypedDict):
    """Result of one backfill."""

    report: str
    run_id: str
    success: bool
    partitions: int
    error: str
    checks: list[CheckOutcome]

"""Cursor of sensors over all reports: which of them to skip, because nothing has changed since they needed no action."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

T = TypeVar("T")

#: Minutes in which every report is examined once, whatever the cursor says: runs of one report may end in another order
#: than they began.
_FULL_SCAN_MINUTES = 60


@dataclass
class AllPassedCursor:
    """For each report that needed no action: the version of its state at that time, such as the id of its latest check."""

    _passed: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def parse(cls, cursor: str | None) -> AllPassedCursor:
        """Parse a sensor's cursor; one that another version wrote is ignored."""
        try:
            document = json.loads(cursor or "{}")
        except ValueError:
            return cls()
        return cls({str(name): str(latest) for name, latest in document.items()} if isinstance(document, dict) else {})

    def serialize(self) -> str:
        """Return the cursor as text."""
        return json.dumps(self._passed)

    def mark_passed(self, report: str, latest: str) -> None:
        """Note that a report needed no action when ``latest`` was the version of its state."""
        self._passed[report] = latest

    def reports_to_examine(self, reports: Mapping[str, T], latest: Mapping[str, str], now: datetime) -> Iterable[T]:
        """Yield the reports whose state has changed since, and one in sixty of the others.

        Args:
            reports: The reports by name.
            latest: Version of each report's state; reports without any are absent.
            now: The current time.
        """
        minute = int(now.timestamp() // 60)
        for position, (name, report) in enumerate(reports.items()):
            if name in latest and (
                self._passed.get(name) != latest[name] or (minute + position) % _FULL_SCAN_MINUTES == 0
            ):
                yield report

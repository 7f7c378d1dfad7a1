"""Which reports need no look at their completeness checks, for nothing was checked since the last look found all passed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

Each = TypeVar("Each")

#: Minutes in which every report is looked at once, whatever was noted: runs of one report may end in another order than they began.
_ROUND = 60


@dataclass
class AllPassedCursor:
    """The latest check of each report at the time when all its partitions had passed; a sensor's cursor."""

    _noted: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, cursor: str | None) -> AllPassedCursor:
        """From a cursor; one that another version has left counts for nothing."""
        try:
            told = json.loads(cursor or "{}")
        except ValueError:
            return cls()
        return cls({str(name): str(seen) for name, seen in told.items()} if isinstance(told, dict) else {})

    def written(self) -> str:
        """As a cursor."""
        return json.dumps(self._noted)

    def note(self, report: str, latest: str) -> None:
        """All of a report's partitions had passed when this was its latest check."""
        self._noted[report] = latest

    def to_look_at(self, reports: Mapping[str, Each], latest: Mapping[str, str], now: datetime) -> Iterable[Each]:
        """The reports of which something was checked since, and a sixtieth of the others.

        Args:
            reports: by name.
            latest: what tells each one's latest check from the one before; absent where there is none.
            now: the time.
        """
        minute = int(now.timestamp() // 60)
        for place, (name, each) in enumerate(reports.items()):
            if name in latest and (self._noted.get(name) != latest[name] or (minute + place) % _ROUND == 0):
                yield each

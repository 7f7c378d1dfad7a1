"""Outcome of a chaos run: violations by category, event counts, reasons of failed jobs."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.chaos.truth import EMPTY, Bucket, Figures, by_bucket

CATEGORIES = ("lost", "partial", "duplicated", "over quota", "unanswered", "leaked")


@dataclass
class Outcome:
    """What a run found. Each violation is recorded once, however often it was observed.

    Attributes:
        violations: Violations by category, in order of first observation.
        counts: Other events, and how often each happened.
        failures: Reasons of failed jobs, and how often each was given.
        peak_window_share: Most requests of any OAuth client in one window during the faults, as a share of the vendor's limit.
    """

    violations: dict[str, dict[str, None]] = field(default_factory=lambda: {category: {} for category in CATEGORIES})
    counts: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    peak_window_share: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, category: str, violation: str) -> None:
        """Record a violation."""
        with self._lock:
            self.violations[category].setdefault(violation)

    @property
    def is_clean(self) -> bool:
        """Return whether there were no violations."""
        return not any(self.violations.values())

    def compare(
        self, source: str, stored: Figures, versions: Sequence[Mapping[datetime, Bucket]], complete: IntervalSet
    ) -> None:
        """Record buckets that are marked complete but equal no version of the vendor's data.

        Args:
            source: Where the figures were read, for the message.
            stored: All figures read there.
            versions: Versions of the vendor's data, oldest first. A bucket may equal any of them.
            complete: Intervals marked complete there.
        """
        found = by_bucket(stored)
        wrong = [
            start
            for start in found.keys() | versions[-1].keys()
            if not any(found.get(start, EMPTY) == version.get(start, EMPTY) for version in versions)
            and any(part.start <= start < part.end for part in complete)
        ]
        if wrong:
            start = min(wrong)
            group, _ = min(found.get(start, EMPTY) ^ versions[-1].get(start, EMPTY))
            self.record(
                "partial", f"{source}: {len(wrong)} buckets differ, the first at {start:%m-%d %H:%M} in {group}"
            )

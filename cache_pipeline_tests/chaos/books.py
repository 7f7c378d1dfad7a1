"""Every finding of a run: what was lost, partial, doubled or over quota; and what else is worth telling."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.chaos.vendor import Figures

KINDS = ("lost", "partial", "doubled", "over quota")


@dataclass
class Books:
    """What was found, each thing once however often it was seen.

    Attributes:
        found: findings by kind, in order of sight.
        counts: what else happened, and how often.
    """

    found: dict[str, dict[str, None]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    counts: Counter[str] = field(default_factory=Counter[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, what: str) -> None:
        """Write down a finding."""
        with self._lock:
            self.found[kind].setdefault(what)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not any(self.found.values())

    def compare(self, where: str, held: Figures, truth: Figures, complete: IntervalSet) -> None:
        """Hold figures that are marked complete against the truth.

        Args:
            where: they were seen.
            held: all figures seen there.
            truth: the vendor's.
            complete: what is marked complete.
        """
        wrong = _within(held, complete) ^ _within(truth, complete)
        if wrong:
            (start, group), _ = min(wrong)
            self.note("partial", f"{where}: {len(wrong)} figures differ, the first of {start:%m-%d %H:%M} {group}")


def _within(figures: Figures, intervals: IntervalSet) -> set[tuple[tuple[datetime, str], int]]:
    return {
        (key, count)
        for key, count in figures.items()
        if count and any(part.start <= key[0] < part.end for part in intervals)
    }

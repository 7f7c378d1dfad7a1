"""Every finding of a run: what was lost, partial, doubled or over quota; and what else is worth telling."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.chaos.truth import NOTHING, Bucket, Figures, by_bucket

KINDS = ("lost", "partial", "doubled", "over quota")


@dataclass
class Books:
    """What was found, each thing once however often it was seen.

    Attributes:
        found: findings by kind, in order of sight.
        counts: what else happened, and how often.
        failed: reasons of the jobs that failed, and how often each.
        fullest: requests in the fullest window of any OAuth client while faults struck, as a share of the vendor's limit.
    """

    found: dict[str, dict[str, None]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    counts: Counter[str] = field(default_factory=Counter[str])
    failed: Counter[str] = field(default_factory=Counter[str])
    fullest: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, what: str) -> None:
        """Write down a finding."""
        with self._lock:
            self.found[kind].setdefault(what)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not any(self.found.values())

    def compare(
        self, where: str, held: Figures, truths: Sequence[Mapping[datetime, Bucket]], complete: IntervalSet
    ) -> None:
        """Hold figures that are marked complete against the truth, each bucket as a whole.

        Args:
            where: they were seen.
            held: all figures seen there.
            truths: versions of the vendor's, any of which will do.
            complete: what is marked complete.
        """
        found = by_bucket(held)
        wrong = [
            start
            for start in found.keys() | truths[-1].keys()
            if not any(found.get(start, NOTHING) == truth.get(start, NOTHING) for truth in truths)
            and any(part.start <= start < part.end for part in complete)
        ]
        if wrong:
            start = min(wrong)
            group, _ = min(found.get(start, NOTHING) ^ truths[-1].get(start, NOTHING))
            self.note("partial", f"{where}: {len(wrong)} buckets differ, the first of {start:%m-%d %H:%M} in {group}")

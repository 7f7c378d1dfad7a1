"""What the vendor truly holds, now and before each of its restatements."""

import threading
from collections.abc import Mapping
from datetime import date, datetime, timedelta

import httpx

from cache_pipeline_tests.chaos.vendor import ORGANISATION, REPORTS, Declared

#: What was offered, and for how many milliseconds it was talked.
Figure = tuple[int, int]
#: By start of bucket and group; where nothing happened is left out.
Figures = dict[tuple[datetime, str], Figure]
Bucket = frozenset[tuple[str, Figure]]
NOTHING: Bucket = frozenset()


def by_bucket(figures: Figures) -> dict[datetime, Bucket]:
    """The groups of each bucket together: an answer that mixes two restatements in one bucket was never true."""
    found: dict[datetime, set[tuple[str, Figure]]] = {}
    for (start, group), figure in figures.items():
        found.setdefault(start, set()).add((group, figure))
    return {start: frozenset(groups) for start, groups in found.items()}


class Truths:
    """The vendor's figures of each report in all their versions.

    Attributes:
        restated: days of the vendor's organisation that it has corrected, in order.
    """

    def __init__(self, simulator_url: str) -> None:
        self.restated: list[date] = []
        self._url = simulator_url
        self._versions: dict[str, list[dict[datetime, Bucket]]] = {report.name: [] for report in REPORTS}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Read it for the first time."""
        self._add(self._read())

    def restate(self, days_ago: int) -> None:
        """Have the vendor correct a day long past its watermark; nobody compares anything meanwhile."""
        day = datetime.now(ORGANISATION).date() - timedelta(days=days_ago)
        with self._lock:
            httpx.post(
                f"{self._url}/simulator/restatements", json={"day": day.isoformat()}, timeout=60
            ).raise_for_status()
            self._add(self._read())
            self.restated.append(day)

    def newest(self, report: Declared) -> dict[datetime, Bucket]:
        """As it stands now."""
        with self._lock:
            return self._versions[report.name][-1]

    def all_of(self, report: Declared) -> list[dict[datetime, Bucket]]:
        """In all versions, the oldest first: who read figures before asking for this finds theirs among them."""
        with self._lock:
            return list(self._versions[report.name])

    def _add(self, read: Mapping[str, Figures]) -> None:
        for name, figures in read.items():
            self._versions[name].append(by_bucket(figures))

    def _read(self) -> dict[str, Figures]:
        return {report.name: self._of(report) for report in REPORTS}

    def _of(self, report: Declared) -> Figures:
        """All that the vendor holds of a report's days, today's too, as if the day were over."""
        found: dict[tuple[datetime, str], list[int]] = {}
        interval = report.interval(report.days()[0], report.today() + timedelta(days=1))
        for place, (fact, value) in enumerate((("offered", "offered"), ("talk", "talkMs"))):
            asked = {**report.truth, "interval": interval, "fact": fact}
            answer = httpx.get(f"{self._url}/simulator/truth", params=asked, timeout=60).raise_for_status()
            for row in answer.json()["rows"]:
                key = datetime.fromisoformat(row["intervalStart"]), row["queueId"]
                found.setdefault(key, [0, 0])[place] = row[value]
        return {key: (offered, talked) for key, (offered, talked) in found.items() if offered or talked}

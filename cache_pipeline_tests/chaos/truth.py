"""The simulated vendor's true figures: the current version, and each version before a restatement."""

import threading
from collections.abc import Mapping
from datetime import date, datetime, timedelta

import httpx

from cache_pipeline_tests.chaos.scenario import ORGANISATION_ZONE, REPORTS, ChaosReport

#: Offered conversations, and milliseconds of talk.
Figure = tuple[int, int]
#: Figures by start of bucket and group. Entries of zeros are left out.
Figures = dict[tuple[datetime, str], Figure]
Bucket = frozenset[tuple[str, Figure]]
EMPTY: Bucket = frozenset()


def by_bucket(figures: Figures) -> dict[datetime, Bucket]:
    """Group figures by bucket, so that a bucket that mixes two versions equals neither of them."""
    found: dict[datetime, set[tuple[str, Figure]]] = {}
    for (start, group), figure in figures.items():
        found.setdefault(start, set()).add((group, figure))
    return {start: frozenset(groups) for start, groups in found.items()}


class VendorTruth:
    """The vendor's figures of each report, in all their versions.

    Attributes:
        restated: Days (of the vendor's organisation) that the vendor has restated, in order.
    """

    def __init__(self, simulator_url: str) -> None:
        self.restated: list[date] = []
        self._url = simulator_url
        self._versions: dict[str, list[dict[datetime, Bucket]]] = {report.name: [] for report in REPORTS}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Read the first version from the simulator."""
        self._append_versions(self._read())

    def restate(self, days_ago: int) -> None:
        """Have the vendor restate a day long past its watermark. Comparisons wait until the new version is read."""
        day = datetime.now(ORGANISATION_ZONE).date() - timedelta(days=days_ago)
        with self._lock:
            httpx.post(
                f"{self._url}/simulator/restatements", json={"day": day.isoformat()}, timeout=60
            ).raise_for_status()
            self._append_versions(self._read())
            self.restated.append(day)

    def latest(self, report: ChaosReport) -> dict[datetime, Bucket]:
        """Return the current version."""
        with self._lock:
            return self._versions[report.name][-1]

    def versions(self, report: ChaosReport) -> list[dict[datetime, Bucket]]:
        """Return all versions, oldest first. Figures read before this call equal one of them."""
        with self._lock:
            return list(self._versions[report.name])

    def _append_versions(self, read: Mapping[str, Figures]) -> None:
        for name, figures in read.items():
            self._versions[name].append(by_bucket(figures))

    def _read(self) -> dict[str, Figures]:
        return {report.name: self._read_report(report) for report in REPORTS}

    def _read_report(self, report: ChaosReport) -> Figures:
        """Return the figures of all days of a report, including the whole of today."""
        found: dict[tuple[datetime, str], list[int]] = {}
        interval = report.interval(report.days()[0], report.today() + timedelta(days=1))
        for index, (fact, field) in enumerate((("offered", "offered"), ("talk", "talkMs"))):
            parameters = {**report.truth, "interval": interval, "fact": fact}
            response = httpx.get(f"{self._url}/simulator/truth", params=parameters, timeout=60).raise_for_status()
            for row in response.json()["rows"]:
                key = datetime.fromisoformat(row["intervalStart"]), row["queueId"]
                found.setdefault(key, [0, 0])[index] = row[field]
        return {key: (offered, talked) for key, (offered, talked) in found.items() if offered or talked}

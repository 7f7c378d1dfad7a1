"""A vendor of conversation details that answers with as many as it is told to have, in the simulator's own shape.

The simulator works every conversation out, and a million of them would take longer than what is measured. So it is asked for one
page, whose conversations are told again and again, each time under other ids and in the hour they shall have begun in.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from benchmarks.memory.vendor import DAY, Slice, Vendor
from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError
from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.upstream.http import httpx

_PATH = "/api/v2/analytics/conversations/details/jobs"
_TOLD_HOUR = 10
_PAGE = 1000
_HOUR = timedelta(hours=1)
_ODD = 0x9E3779B97F4A7C15F39CC0605CEDC835
_INSTANT = re.compile(r"2026-01-0\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True)
class Told:
    """Conversations that began in one hour."""

    conversations: list[dict[str, Any]]

    def in_hour(self, hour: int) -> list[list[bytes]]:
        """Each as if it had begun in another, cut where its id stands, but for the four letters before."""

        def moved(found: re.Match[str]) -> str:
            at = datetime.fromisoformat(found[0]) + (hour - _TOLD_HOUR) * _HOUR
            return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

        return [
            _INSTANT.sub(moved, json.dumps(each)).encode().split(each["conversationId"][4:].encode())
            for each in self.conversations
        ]

    @cached_property
    def hours(self) -> list[list[list[bytes]]]:
        """So for each hour of the day."""
        return [self.in_hour(hour) for hour in range(24)]

    def conversation(self, number: int, rows: int) -> bytes:
        """Return one of a day's conversations by its number."""
        told = self.hours[number * 24 // rows]
        mixed = f"{(number + 1) * _ODD % 2**112:028x}"
        parts = mixed[:4], mixed[4:8], mixed[8:12], mixed[12:16], mixed[16:]
        return "-".join(parts).encode().join(told[number % len(told)])


def simulated_page() -> Told:
    """Return a thousand conversations that began in one hour of the day.

    Raises:
        BenchmarkError: the simulator does not give them.
    """
    settings = SimulatorSettings(conversations_per_working_day=24_000, genesys_rate_limit=1_000_000)
    hour = f"{(DAY.start + _TOLD_HOUR * _HOUR).isoformat()}/{(DAY.start + (_TOLD_HOUR + 1) * _HOUR).isoformat()}"
    body = {"interval": hour, "startOfDayIntervalMatching": True}
    with simulator_process(settings) as url, httpx.Client(base_url=url, trust_env=False) as client:
        form = {"grant_type": "client_credentials"}
        token = client.post("/oauth/token", data=form, auth=("demo-client", "demo-secret")).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        job = f"{_PATH}/{client.post(_PATH, json=body).json()['jobId']}"
        while client.get(job).json()["state"] in ("QUEUED", "PENDING"):
            pass
        told: list[dict[str, Any]] = client.get(f"{job}/results", params={"pageSize": _PAGE}).json()["conversations"]
    first = (DAY.start + _TOLD_HOUR * _HOUR).isoformat()[:13]
    page = [each for each in told if each["conversationStart"].startswith(first) and "conversationEnd" in each]
    if not page:
        raise BenchmarkError(f"the simulator gave no conversation of {hour}")
    return Told(page)


class DetailsVendor(Vendor):
    """Details jobs of conversations, told after a page of the simulator's."""

    def __init__(self, told: Told, *connection: Any) -> None:
        self._told = told
        super().__init__(*connection)

    def taken(self, job: str) -> Mapping[str, object]:
        """Its id and no more."""
        return {"jobId": job}

    def done(self, job: str) -> Mapping[str, object]:
        """No percent, no address."""
        return {"state": "FULFILLED"}

    def page(self, told: Slice, first: int, end: int, cursor: str | None) -> bytes:
        """Without a cursor where it is the last."""
        more = {} if cursor is None else {"cursor": cursor}
        head = json.dumps({"dataAvailabilityDate": "2026-01-06T06:00:00Z", **more}).encode()
        conversations = b", ".join(self._told.conversation(number, told.rows) for number in range(first, end))
        return head[:-1] + b', "conversations": [' + conversations + b"]}"

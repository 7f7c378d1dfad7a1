"""A vendor of conversation details with a configurable number of conversations, in the simulator's format.

The simulator computes every conversation, and a million of them would take longer than what is measured. So this vendor fetches one
page from it and repeats that page's conversations with new ids, moved to the hour in which they must begin.
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
_TEMPLATE_HOUR = 10
_PAGE = 1000
_HOUR = timedelta(hours=1)
_ID_MULTIPLIER = 0x9E3779B97F4A7C15F39CC0605CEDC835
_INSTANT = re.compile(r"2026-01-0\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True)
class TemplatePage:
    """Conversations that began in one hour, from which all others are copied."""

    conversations: list[dict[str, Any]]

    def in_hour(self, hour: int) -> list[list[bytes]]:
        """Return each conversation moved to another hour, as bytes split at its id (except for the id's first four digits)."""

        def move(found: re.Match[str]) -> str:
            at = datetime.fromisoformat(found[0]) + (hour - _TEMPLATE_HOUR) * _HOUR
            return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

        return [
            _INSTANT.sub(move, json.dumps(each)).encode().split(each["conversationId"][4:].encode())
            for each in self.conversations
        ]

    @cached_property
    def hours(self) -> list[list[list[bytes]]]:
        """Return the moved conversations of each hour of the day."""
        return [self.in_hour(hour) for hour in range(24)]

    def conversation(self, number: int, rows: int) -> bytes:
        """Return one of a day's conversations by its number."""
        templates = self.hours[number * 24 // rows]
        digits = f"{(number + 1) * _ID_MULTIPLIER % 2**112:028x}"
        parts = digits[:4], digits[4:8], digits[8:12], digits[12:16], digits[16:]
        return "-".join(parts).encode().join(templates[number % len(templates)])


def fetch_template() -> TemplatePage:
    """Return a thousand conversations that began in one hour of the day.

    Raises:
        BenchmarkError: The simulator returned none.
    """
    settings = SimulatorSettings(conversations_per_working_day=24_000, genesys_rate_limit=1_000_000)
    hour = (
        f"{(DAY.start + _TEMPLATE_HOUR * _HOUR).isoformat()}/{(DAY.start + (_TEMPLATE_HOUR + 1) * _HOUR).isoformat()}"
    )
    body = {"interval": hour, "startOfDayIntervalMatching": True}
    with simulator_process(settings) as url, httpx.Client(base_url=url, trust_env=False) as client:
        form = {"grant_type": "client_credentials"}
        token = client.post("/oauth/token", data=form, auth=("demo-client", "demo-secret")).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        job = f"{_PATH}/{client.post(_PATH, json=body).json()['jobId']}"
        while client.get(job).json()["state"] in ("QUEUED", "PENDING"):
            pass
        conversations: list[dict[str, Any]] = client.get(f"{job}/results", params={"pageSize": _PAGE}).json()[
            "conversations"
        ]
    first = (DAY.start + _TEMPLATE_HOUR * _HOUR).isoformat()[:13]
    page = [each for each in conversations if each["conversationStart"].startswith(first) and "conversationEnd" in each]
    if not page:
        raise BenchmarkError(f"the simulator returned no conversation of {hour}")
    return TemplatePage(page)


class DetailsVendor(Vendor):
    """A vendor with details jobs whose conversations are copies of a page of the simulator's."""

    def __init__(self, template: TemplatePage, *connection: Any) -> None:
        self._template = template
        super().__init__(*connection)

    def submit_answer(self, job: str) -> Mapping[str, object]:
        """Return the id only, as Genesys does."""
        return {"jobId": job}

    def status_answer(self, job: str) -> Mapping[str, object]:
        """Return the state only, without percentage or URL, as Genesys does."""
        return {"state": "FULFILLED"}

    def page(self, page_slice: Slice, first: int, end: int, cursor: str | None) -> bytes:
        """Return conversations as JSON, without a cursor on the last page."""
        more = {} if cursor is None else {"cursor": cursor}
        head = json.dumps({"dataAvailabilityDate": "2026-01-06T06:00:00Z", **more}).encode()
        conversations = b", ".join(self._template.conversation(number, page_slice.rows) for number in range(first, end))
        return head[:-1] + b', "conversations": [' + conversations + b"]}"

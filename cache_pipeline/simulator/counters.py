"""Counters of the requests that the simulator received, which verify every claim about saved calls."""

from collections import Counter
from typing import Any

LOGIN_KIND = "login"
_REQUEST = "request"
SUMMARY_KINDS = {"submit": "submits", "poll": "polls", "results": "results", "sync_query": "sync_queries"}


class Counters:
    """Counts calls by route, client and status."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str | None, int]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._logins: Counter[str] = Counter()
        self._over_limit: Counter[str] = Counter()
        self._peak_window_share: dict[str, float] = {}

    def reset(self) -> None:
        """Reset all counts."""
        for counter in (self._calls, self._kinds, self._rejected, self._logins, self._over_limit):
            counter.clear()
        self._peak_window_share.clear()

    def count(self, call: str, kind: str, client_id: str | None, status: int) -> None:
        """Count one answered request.

        Args:
            call: Method and route template.
            kind: `login`, one of SUMMARY_KINDS, or anything else.
            client_id: The client of the token or of the login; None if unknown.
            status: HTTP status of the response.
        """
        self._calls[call, client_id, status] += 1
        succeeded = status < 400
        if kind == LOGIN_KIND:
            if succeeded:
                self._logins[client_id or ""] += 1
            return
        self._kinds[_REQUEST] += 1
        if succeeded:
            self._kinds[kind] += 1
        if status == 429:
            self._rejected[client_id or ""] += 1

    def count_over_limit(self, client_id: str) -> None:
        """Count one request over a limit, regardless of its response."""
        self._over_limit[client_id] += 1

    def record_usage(self, client_id: str, share: float) -> None:
        """Record the share of a client's limit that its accepted requests use in the window that ends now."""
        self._peak_window_share[client_id] = max(share, self._peak_window_share.get(client_id, 0.0))

    def snapshot(self) -> dict[str, Any]:
        """Return all counts as JSON: `calls`, a `summary`, and by client `rejected_429`, `over_limit`, `peak_window_share`, `logins`.

        In the summary `requests` counts every API request with any response, without logins; `submits`, `polls`, `results`
        and `sync_queries` count those that succeeded. `over_limit` counts the requests over a limit, without configured
        429 faults. `peak_window_share` is the highest number of a client's requests in a window, as a share of its limit.
        """
        calls = [
            {"call": call, "client_id": client_id, "status": status, "count": count}
            for (call, client_id, status), count in sorted(self._calls.items(), key=str)
        ]
        summary = {
            "requests": self._kinds[_REQUEST],
            "rejected_429": self._rejected.total(),
            "over_limit": self._over_limit.total(),
            "logins": self._logins.total(),
            **{name: self._kinds[kind] for kind, name in SUMMARY_KINDS.items()},
        }
        return {
            "calls": calls,
            "rejected_429": dict(self._rejected),
            "over_limit": dict(self._over_limit),
            "peak_window_share": dict(self._peak_window_share),
            "logins": dict(self._logins),
            "summary": summary,
        }

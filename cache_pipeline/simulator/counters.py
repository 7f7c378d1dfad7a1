"""What was asked of the simulator: the other side of every claim about calls saved."""

from collections import Counter
from typing import Any

TOKEN_KIND = "login"  # noqa: S105 - a kind of call, no secret
_REQUEST = "request"
SUMMARY_KINDS = {"submit": "submits", "poll": "polls", "results": "results", "sync_query": "sync_queries"}


class Counters:
    """Calls by route, client and status."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str | None, int]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._logins: Counter[str] = Counter()
        self._over_limit: Counter[str] = Counter()
        self._fullest: dict[str, float] = {}

    def reset(self) -> None:
        """Forget everything counted."""
        for counter in (self._calls, self._kinds, self._rejected, self._logins, self._over_limit):
            counter.clear()
        self._fullest.clear()

    def count(self, call: str, kind: str, client_id: str | None, status: int) -> None:
        """Count one answered request.

        Args:
            call: Method and route template.
            kind: `login`, one of SUMMARY_KINDS, or anything else.
            client_id: Whose token it bore, or who logged in; None where unknown.
            status: HTTP status of the answer.
        """
        self._calls[call, client_id, status] += 1
        succeeded = status < 400
        if kind == TOKEN_KIND:
            if succeeded:
                self._logins[client_id or ""] += 1
            return
        self._kinds[_REQUEST] += 1
        if succeeded:
            self._kinds[kind] += 1
        if status == 429:
            self._rejected[client_id or ""] += 1

    def exceed(self, client_id: str) -> None:
        """Count one request that broke a limit, whatever it is answered."""
        self._over_limit[client_id] += 1

    def fill(self, client_id: str, share: float) -> None:
        """Note what share of a client's limit its accepted requests fill in the window that ends now."""
        self._fullest[client_id] = max(share, self._fullest.get(client_id, 0.0))

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON: `calls`, `rejected_429`, `over_limit`, `fullest` and `logins` by client, and the `summary`.

        In the summary `requests` is every API request, answered in whatever way, without logins; `submits`, `polls`,
        `results` and `sync_queries` are those that succeeded. `over_limit` are the requests that broke a limit, without
        the 429 on demand. `fullest` is the most that a window held of a client's requests, as a share of its limit.
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
            "fullest": dict(self._fullest),
            "logins": dict(self._logins),
            "summary": summary,
        }

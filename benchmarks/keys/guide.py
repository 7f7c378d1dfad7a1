"""The guide's normalised cache key (G6, G7), exactly as printed.

It drops metadata, request ids and the platform's defaults, sorts arrays and removes duplicates, and converts both ends of the
interval to UTC. The key is the SHA-256 of the result as JSON with sorted keys. Predicates are sorted but not simplified.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

_DROPPED_FIELDS = ("requestId", "metadata", "correlationId")
_DEFAULTS: dict[str, Any] = {"timeZone": "UTC", "filters": {"type": "and", "predicates": []}}


def guide_key(payload: dict[str, Any], ttl_tier: str) -> str:
    """Return the cache key of a payload."""
    remaining = {
        name: _sort_and_deduplicate(value)
        for name, value in payload.items()
        if name not in _DROPPED_FIELDS and _DEFAULTS.get(name) != value
    }
    remaining["interval"] = "/".join(_to_utc(end) for end in payload["interval"].split("/"))
    digest = hashlib.sha256(json.dumps(remaining, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"analytics:{payload['reportId']}:{digest}:{ttl_tier}"


def _sort_and_deduplicate(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sort_and_deduplicate(inner) for name, inner in value.items()}
    if isinstance(value, list):
        found = {
            json.dumps(_sort_and_deduplicate(inner), sort_keys=True): _sort_and_deduplicate(inner) for inner in value
        }
        return [found[text] for text in sorted(found)]
    return value


def _to_utc(end: str) -> str:
    if end.startswith("P"):
        return end
    return datetime.fromisoformat(end).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

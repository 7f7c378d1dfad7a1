"""The guide's own rule (G6, G7), as it is printed and no cleverer.

Metadata and request ids go, arrays are sorted and hold equal values once, both ends of the interval become UTC, defaults that the
platform applies anyway go; the key is the SHA-256 of that as JSON with sorted keys. Predicates are sorted as they stand.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

_STRIPPED = ("requestId", "metadata", "correlationId")
_DEFAULTS: dict[str, Any] = {"timeZone": "UTC", "filters": {"type": "and", "predicates": []}}


def guide_key(payload: dict[str, Any], ttl_tier: str) -> str:
    """Return the key of a payload."""
    kept = {
        name: _sorted(value)
        for name, value in payload.items()
        if name not in _STRIPPED and _DEFAULTS.get(name) != value
    }
    kept["interval"] = "/".join(_utc(end) for end in payload["interval"].split("/"))
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"analytics:{payload['reportId']}:{digest}:{ttl_tier}"


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        found = {json.dumps(_sorted(inner), sort_keys=True): _sorted(inner) for inner in value}
        return [found[text] for text in sorted(found)]
    return value


def _utc(end: str) -> str:
    if end.startswith("P"):
        return end
    return datetime.fromisoformat(end).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

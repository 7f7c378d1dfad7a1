"""The audit log of the HTTP API: who asked what, and how it ended. It holds no figures, no keys and no values of filters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import Scope

from cache_pipeline.api.auth import read_key
from cache_pipeline.api.parsing import ParsedQuery
from cache_pipeline.storage.ports.api_keys import KEY_FORM, Principal

#: Its own name, so that a deployment can send these lines elsewhere.
audit_logger = logging.getLogger("cache_pipeline.audit")
#: Set in the state of a request that has its key elsewhere than in the headers.
HAS_SENT_KEY = "has_sent_key"
#: Longer ones are cut: a caller without a key must not be able to fill a disk.
_MAX_PATH_LENGTH = 500
#: Paths that monitors and browsers ask for without a key, every few seconds.
_UNRECORDED_PATHS = ("/healthz", "/readyz", "/metrics")


def refusal_reason(scope: Scope) -> str:
    """Return why a request was refused with 401: it sent no key, or one that does not work."""
    headers = Headers(scope=scope)
    has_sent_key = scope.get("state", {}).get(HAS_SENT_KEY) or read_key(headers) or headers.get("authorization")
    return "invalid" if has_sent_key else "missing"


def record_request(scope: Scope, status: int) -> None:
    """Write one line for a request that has ended."""
    if scope["path"] in _UNRECORDED_PATHS:
        return
    state: Mapping[str, Any] = scope.get("state", {})
    caller: Principal | None = state.get("caller") or state.get("viewer")
    parsed: ParsedQuery | None = state.get("asked")
    fields: dict[str, Any] = {
        "method": scope["method"],
        # A path may hold line breaks.
        "path": quote(scope["path"][:_MAX_PATH_LENGTH]),
        "status": status,
        "key": caller.id if caller else None,
        "tenant": caller.tenant if caller else None,
        "client": scope["client"][0] if scope.get("client") else None,
        "passed_to": state.get("passed_to"),
        **(_describe_query(parsed) if parsed else {}),
    }
    if caller is None and (refused := _claimed_key_id(scope)):
        fields["refused_key"] = refused
    audit_logger.info(
        "%s", " ".join(f"{name}={value}" for name, value in fields.items() if value is not None), extra=fields
    )


def _describe_query(parsed: ParsedQuery) -> dict[str, Any]:
    requested = parsed.resolved.requested
    return {
        "report": parsed.report.name,
        "interval": str(parsed.query.interval),
        "granularity": requested.granularity,
        "time_zone": requested.time_zone,
        "group_by": ",".join(requested.group_by),
        "metrics": ",".join(requested.metrics),
        # Values of filters may be telephone numbers.
        "filtered_by": ",".join(sorted(requested.filters.dimensions)),
        "refresh": parsed.refresh,
    }


def _claimed_key_id(scope: Scope) -> str | None:
    """Return the id in a key that does not work, which is not secret and says whose key it was."""
    key = read_key(Headers(scope=scope)) or ""
    return key.split("_")[1] if KEY_FORM.fullmatch(key) else None

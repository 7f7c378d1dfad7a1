"""The token endpoint: an API key is exchanged for an access token, as OAuth clients do it (RFC 6749, section 4.4)."""

from __future__ import annotations

import base64
import binascii
import secrets
from datetime import timedelta
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cache_pipeline.api.audit import HAS_SENT_KEY
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.storage.ports.api_keys import Principal

#: The fields that are read; a form with very many others is refused.
_MAX_FIELDS = 20


async def answer_token_request(request: Request) -> Response:
    """Return an access token for an API key.

    The client id is the key up to its second underscore, the secret is what follows it. Both may be sent as HTTP Basic
    credentials or in the form.

    Raises:
        Problem: 400 if the request is malformed, 401 if the key is unknown or revoked, or 429 if it has reached its limit.
    """
    query_service: QueryService = request.app.state.query_service
    form = _read_form(await request.body())
    grant = form.get("grant_type")
    if grant != "client_credentials":
        detail = "grant_type is missing" if grant is None else "the grant is unknown"
        raise Problem("unsupported-grant-type", 400, f"{detail}: send grant_type=client_credentials")
    lifetime = timedelta(seconds=query_service.settings.api.token_seconds)
    if query_service.settings.api.auth == "off":
        # Every caller is admitted, so nothing needs to be remembered.
        return _token_response(secrets.token_urlsafe(32), lifetime)
    principal = await _find_client(query_service, request, form)
    query_service.rate_limiter.take(principal)
    return _token_response(await query_service.api_keys.issue_token(principal, lifetime), lifetime)


def _read_form(body: bytes) -> dict[str, str]:
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Problem("invalid-request", 400, "the body is not a form: send grant_type=client_credentials") from None
    if repeated := sorted(name for name, values in fields.items() if len(values) > 1):
        raise Problem("invalid-request", 400, f"{repeated[0][:80]} is given twice: give it once")
    return {name: values[0] for name, values in fields.items()}


async def _find_client(query_service: QueryService, request: Request, form: dict[str, str]) -> Principal:
    header = request.headers.get("authorization")
    client_id, secret = (
        (form.get("client_id", ""), form.get("client_secret", "")) if header is None else _read_basic(header)
    )
    setattr(request.state, HAS_SENT_KEY, bool(client_id or secret))
    principal = await query_service.api_keys.find(f"{client_id}_{secret}") if client_id and secret else None
    if principal is None:
        raise Problem(
            "invalid-client",
            401,
            "client not found or invalid client credentials: the client id is an API key up to its second underscore, the "
            "secret is what follows it",
            headers={"WWW-Authenticate": 'Basic realm="cache-pipeline"'},
        )
    return principal


def _read_basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("ascii") if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        text = ""
    client_id, _, secret = text.partition(":")
    return client_id, secret


def _token_response(token: str, lifetime: timedelta) -> Response:
    body = {"access_token": token, "token_type": "bearer", "expires_in": int(lifetime.total_seconds())}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})

"""OAuth client-credentials login: `POST /oauth/token` and `/login/oauth/token`.

Its errors are `{"error", "description"}`, not the ErrorBody of the other endpoints.
"""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cache_pipeline.simulator.body import read_body
from cache_pipeline.simulator.errors import ApiError
from cache_pipeline.simulator.settings import SimulatorSettings

_NO_CACHE = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class AccessToken:
    """An issued token; its text is a secret and never appears in an error."""

    text: str = field(repr=False)
    client_id: str
    expires_at: float


class TokenError(Exception):
    """A token request is refused, with an error code of RFC 6749."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.description = description


class TokenIssuer:
    """Issues access tokens and recognises them until they expire, to the instant."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._secrets = settings.clients
        self._lifetime = settings.token_lifetime_seconds
        self._tokens: dict[str, AccessToken] = {}

    def login(self, client_id: str, secret: str, now: float, claims: Mapping[str, object] | None = None) -> AccessToken:
        """Return a new token, in the form of a JWT if it has claims.

        Raises:
            TokenError: The client is unknown or the secret is wrong.
        """
        expected = self._secrets.get(client_id)
        # An unknown client takes the same comparison, so that timing does not reveal which ids exist.
        is_match = hmac.compare_digest(secret.encode(), (expected.get_secret_value() if expected else secret).encode())
        if expected is None or not is_match:
            raise TokenError(401, "invalid_client", "client not found or invalid client credentials")
        self._forget_expired(now)
        token = AccessToken(_token_text(claims), client_id, now + self._lifetime)
        self._tokens[token.text] = token
        return token

    def check(self, authorization: str | None, now: float) -> AccessToken:
        """Return the valid token in an `Authorization` header.

        Raises:
            ApiError: 401; the token is missing, unknown or expired.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            message = "No authentication bearer token specified in authorization header."
            raise ApiError(401, "authentication.required", message)
        token = self._tokens.get(text.strip())
        if token is None:
            raise ApiError(401, "bad.credentials", "Invalid login credentials.")
        if now >= token.expires_at:
            raise ApiError(401, "credentials.expired", "The access token has expired.")
        return token

    def valid_tokens(self, now: float) -> tuple[AccessToken, ...]:
        """Return the tokens that are valid at `now`."""
        return tuple(token for token in self._tokens.values() if now < token.expires_at)

    def revoke(self, token: AccessToken) -> None:
        """Revoke a token before it expires."""
        self._tokens.pop(token.text, None)

    def _forget_expired(self, now: float) -> None:
        # Expired tokens are kept for one more lifetime, so that the error can say that they expired.
        self._tokens = {text: token for text, token in self._tokens.items() if now < token.expires_at + self._lifetime}


def _token_text(claims: Mapping[str, object] | None) -> str:
    random = secrets.token_urlsafe(48)
    return random if claims is None else f"{unsigned_jwt(claims)}{random}"


def unsigned_jwt(claims: Mapping[str, object]) -> str:
    """Return the header and claims of a JWT, with an empty signature."""
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def _basic_credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise TokenError(401, "invalid_client", "the Authorization header is not HTTP Basic") from None
    if not colon:
        raise TokenError(401, "invalid_client", "HTTP Basic credentials must be id:secret")
    return client_id, secret


def _credentials(request: Request, form: dict[str, list[str]]) -> tuple[str, str]:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        return _basic_credentials(authorization)
    if "client_id" not in form or "client_secret" not in form:
        raise TokenError(401, "invalid_client", "client credentials are missing")
    return form["client_id"][0], form["client_secret"][0]


async def answer_token_request(
    request: Request, issuer: TokenIssuer, settings: SimulatorSettings, now: float
) -> tuple[Response, str | None]:
    """Return the response to a token request, and the client's id if the login succeeded."""
    try:
        form = parse_qs((await read_body(request, settings.max_body_bytes)).decode("utf-8", "replace"))
        grant = form.get("grant_type", [""])[0]
        if not grant:
            raise TokenError(400, "invalid_request", "grant_type is missing")
        if grant != "client_credentials":
            raise TokenError(400, "unsupported_grant_type", "the simulator only supports grant_type=client_credentials")
        token = issuer.login(*_credentials(request, form), now)
    except TokenError as error:
        body = {"error": error.error, "description": error.description}
        return JSONResponse(body, status_code=error.status, headers=_NO_CACHE), None
    except ApiError as error:
        return JSONResponse({"error": "invalid_request", "description": error.message}, status_code=error.status), None
    body = {"access_token": token.text, "token_type": "bearer", "expires_in": int(settings.token_lifetime_seconds)}
    return JSONResponse(body, headers=_NO_CACHE), token.client_id

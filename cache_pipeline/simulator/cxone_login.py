"""CXone's logins and discovery: by access key, by OpenID with the access key as user and password, and a tenant's API address.

The vendor documents: the paths, `area` and `domain`, which make up the API's address (`https://api-{area}.{domain}`), and the claim
`tenantId`. The simulator's own choices: a token from an access key has the claim too, and the default domain is `localhost` with the
port, over plain HTTP, such as `http://api-na1.localhost:8090`.
"""

from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.body import read_body, read_json
from cache_pipeline.simulator.counters import LOGIN_KIND
from cache_pipeline.simulator.errors import ApiError
from cache_pipeline.simulator.oauth import AccessToken, TokenError, unsigned_jwt
from cache_pipeline.simulator.state import Simulator

TENANT_ID = "11111111-2222-4333-8444-555555555555"
_CLAIMS = {"tenantId": TENANT_ID}
_AREA = "na1"
_ACCESS_KEY_PATH = "/authentication/v1/token/access-key"


class AccessKey(BaseModel):
    """The JSON body of a login by access key."""

    model_config = ConfigDict(extra="forbid")

    key_id: str = Field(alias="accessKeyId")
    secret: SecretStr = Field(alias="accessKeySecret")


def login_routes(simulator: Simulator) -> list[Route]:
    """Return the unauthenticated routes of login and discovery."""
    limit = simulator.settings.max_body_bytes

    def log_in(path: str, key_id: str, secret: str, extra: dict[str, str]) -> Response:
        try:
            token: AccessToken = simulator.tokens.login(key_id, secret, simulator.clock.now(), _CLAIMS)
        except TokenError as error:
            simulator.counters.count(f"POST {path}", LOGIN_KIND, None, error.status)
            return JSONResponse({"error": error.error, "error_description": error.description}, error.status)
        simulator.counters.count(f"POST {path}", LOGIN_KIND, token.client_id, 200)
        lifetime = int(simulator.settings.token_lifetime_seconds)
        return JSONResponse({"access_token": token.text, "token_type": "bearer", "expires_in": lifetime, **extra})

    async def by_access_key(request: Request) -> Response:
        try:
            key = await read_json(request, AccessKey, limit)
        except ApiError as error:
            return JSONResponse({"error": "invalid_request", "error_description": error.message}, error.status)
        return log_in(_ACCESS_KEY_PATH, key.key_id, key.secret.get_secret_value(), {})

    async def by_password(request: Request) -> Response:
        form = parse_qs((await read_body(request, limit)).decode("utf-8", "replace"))
        if form.get("grant_type") != ["password"]:
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        user, password = (form.get(name, [""])[0] for name in ("username", "password"))
        return log_in("/auth/token", user, password, {"id_token": unsigned_jwt(_CLAIMS)})

    async def openid(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        return JSONResponse({"issuer": base, "token_endpoint": f"{base}/auth/token"})

    async def configuration(request: Request) -> Response:
        if request.query_params.get("tenantId") != TENANT_ID:
            return JSONResponse({"error": "unknown tenantId"}, 404)
        domain = simulator.settings.cxone_domain or f"localhost:{request.url.port or 80}"
        return JSONResponse({"area": _AREA, "domain": domain})

    return [
        Route(_ACCESS_KEY_PATH, by_access_key, methods=["POST"]),
        Route("/auth/token", by_password, methods=["POST"]),
        Route("/.well-known/openid-configuration", openid, methods=["GET"]),
        Route("/.well-known/cxone-configuration", configuration, methods=["GET"]),
    ]

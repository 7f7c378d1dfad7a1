"""What one vendor connection needs to know, checked once and frozen."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy


class OAuthClient(BaseModel):
    """One OAuth client of the pool. `weight` is its share in the round-robin (G18)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr
    weight: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Timeouts:
    """Seconds each step of one request may take; `pool` is the wait for a free connection."""

    connect: float = 5.0
    read: float = 30.0
    write: float = 10.0
    pool: float = 30.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and how long, a request is repeated before the caller hears of it.

    Attributes:
        max_attempts: Sends of one request while the vendor faults or the connection breaks.
        first_wait_seconds: Seconds before the second attempt; doubled each time, with jitter.
        max_wait_seconds: Cap of that wait in seconds.
        rate_limit_timeout_seconds: Seconds a request waits from its first 429 on before it is given up (G18).
        refused_login_wait_seconds: Seconds a client whose login was refused is left out before it is tried again.
    """

    max_attempts: int = 5
    first_wait_seconds: float = 0.5
    max_wait_seconds: float = 10.0
    rate_limit_timeout_seconds: float = 600.0
    refused_login_wait_seconds: float = 300.0


class Issuer(BaseModel):
    """Who says where a tenant's API is, for vendors with discovery.

    Attributes:
        url: its address.
        tenant_id: whose API; by default the tenant of the first OAuth client.
        allow_insecure_http: lets it name an address without TLS that is not this machine's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    tenant_id: str | None = None
    allow_insecure_http: bool = False


class UpstreamConfig(BaseModel):
    """One platform's address, its pool of OAuth clients and its limits.

    With an `issuer` the addresses are found out before the first request: `base_url` is then the issuer's own, and stands in for
    the API's; `login_url` may be left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    platform: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    base_url: str
    login_url: str | None
    issuer: Issuer | None = None
    clients: Annotated[tuple[OAuthClient, ...], Field(min_length=1)]
    policy: QuotaPolicy
    timeouts: Timeouts = Timeouts()
    retries: RetryPolicy = RetryPolicy()
    max_connections: Annotated[int, Field(ge=1, le=20)] = 20

    @field_validator("base_url", "login_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = httpx.URL(value)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("must be a whole address, such as https://api.mypurecloud.com")
        if url.userinfo:
            raise ValueError("must not hold a user or password: secrets belong in clients")
        return value

    @field_validator("clients")
    @classmethod
    def _ids_differ(cls, value: tuple[OAuthClient, ...]) -> tuple[OAuthClient, ...]:
        ids = [client.client_id for client in value]
        twice = sorted({client_id for client_id in ids if ids.count(client_id) > 1})
        if twice:
            raise ValueError(f"names OAuth client {', '.join(twice)} more than once")
        return value

    @property
    def weights(self) -> dict[str, int]:
        """Client id to weight, as the quota wants it."""
        return {client.client_id: client.weight for client in self.clients}

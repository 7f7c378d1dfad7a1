"""Settings of one vendor connection: addresses, OAuth clients, limits, timeouts and retries; validated once and frozen."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from cache_pipeline.upstream.dialect import COMMON_DIALECT, Dialect
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.upstream.quota.model import MAX_PAUSE_SECONDS
from cache_pipeline.upstream.redis_keys import UpstreamKeys


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
    """How often, and for how long, a request is retried before the caller gets an error.

    Attributes:
        max_attempts: Sends of one request while the vendor fails or the connection breaks.
        first_wait_seconds: Wait before the second attempt; doubled each time, with jitter.
        max_wait_seconds: Upper bound of that wait.
        rate_limit_timeout_seconds: How long a request waits, from its first refusal on, before it fails (G18). The default
            outlasts the longest pause that the quota believes.
        refused_login_wait_seconds: How long a client whose login was refused is not tried again.
    """

    max_attempts: int = 5
    first_wait_seconds: float = 0.5
    max_wait_seconds: float = 10.0
    rate_limit_timeout_seconds: float = MAX_PAUSE_SECONDS + 60.0
    refused_login_wait_seconds: float = 300.0


class Issuer(BaseModel):
    """The service that names the address of a tenant's API, for vendors with discovery.

    Attributes:
        url: Address of the issuer.
        tenant_id: The tenant; by default the one of the first OAuth client.
        allow_insecure_http: Accept an address without TLS that is not on this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    tenant_id: str | None = None
    allow_insecure_http: bool = False


class UpstreamConfig(BaseModel):
    """One account's address, its pool of OAuth clients and its limits.

    With an `issuer` the addresses are discovered before the first request. Then `base_url` is the issuer's own address, a
    placeholder for the API's, and `login_url` may be omitted.

    Attributes:
        proxy: URL of the HTTP proxy for every request, or None.
        organisation: Tells organisations at the same address apart; by default the first of the clients' ids.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+$")]
    base_url: str
    login_url: str | None
    issuer: Issuer | None = None
    clients: Annotated[tuple[OAuthClient, ...], Field(min_length=1)]
    policy: QuotaPolicy
    timeouts: Timeouts = Timeouts()
    retries: RetryPolicy = RetryPolicy()
    dialect: Dialect = COMMON_DIALECT
    proxy: SecretStr | None = None
    organisation: str | None = None
    max_connections: Annotated[int, Field(ge=1, le=20)] = 20

    @field_validator("base_url", "login_url")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = httpx.URL(value)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("must be a complete URL, such as https://api.example.com")
        if url.userinfo:
            raise ValueError("must not contain a user or password; put secrets into clients")
        return value

    @field_validator("clients")
    @classmethod
    def _check_ids_unique(cls, value: tuple[OAuthClient, ...]) -> tuple[OAuthClient, ...]:
        ids = [client.client_id for client in value]
        repeated = sorted({client_id for client_id in ids if ids.count(client_id) > 1})
        if repeated:
            raise ValueError(f"lists OAuth client {', '.join(repeated)} more than once; list each client once")
        return value

    @property
    def keys(self) -> UpstreamKeys:
        """The Redis keys of quota and tokens.

        A vendor counts the requests of an OAuth client wherever they come from. So whatever uses the same client at the same
        address shares its window and token, whichever tenant or account it is.
        """
        url = httpx.URL(self.base_url)
        port = f":{url.port}" if url.port else ""
        organisation = self.organisation or min(client.client_id for client in self.clients)
        return UpstreamKeys(f"{self.account.partition('/')[0]}@{url.host}{port}", organisation)

    @property
    def weights(self) -> dict[str, int]:
        """Client id to weight, as the quota needs it."""
        return {client.client_id: client.weight for client in self.clients}

"""The settings of a NICE CXone tenant."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field, HttpUrl, field_validator, model_validator

from cache_pipeline.settings import ClientCredentials, VendorAccount
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.cxone.extract import KNOWN_COLUMNS
from cache_pipeline.vendors.spec import AccountAddresses

#: Domains of NICE's own issuer, which reports the area that the login's address is derived from.
_NICE_DOMAINS = (".niceincontact.com", ".nice-incontact.com")


class CxoneAccount(VendorAccount, frozen=True):
    """One tenant.

    Attributes:
        issuer: Instead of ``base_url``: the issuer, for example ``https://cxone.niceincontact.com``. The API's address is
            discovered there before the first request. If ``base_url`` is set too, it is used without discovery.
        tenant_id: The tenant whose API is used; by default the tenant named in the access key's token.
        login_url: Required, unless NICE's own ``issuer`` is used together with a ``tenant_id``.
        clients: The id and secret of the one access key: its limit applies to the whole tenant.
        columns: The names of columns in this account's files, where they differ from the known ones, for example
            ``{"userId": "Agent No", "contact": "Master Contact"}``.
        window_seconds: The time between two calls, polls included.
    """

    model_config = ConfigDict(extra="forbid")

    issuer: HttpUrl | None = None
    tenant_id: str | None = Field(default=None, min_length=1)
    columns: dict[str, str] = Field(default_factory=dict)

    def urls(self) -> tuple[HttpUrl | None, ...]:
        """Return the addresses to which secrets are sent."""
        return *super().urls(), self.issuer

    @field_validator("clients")
    @classmethod
    def _check_one_access_key(cls, clients: tuple[ClientCredentials, ...]) -> tuple[ClientCredentials, ...]:
        if len(clients) > 1:
            raise ValueError(
                "must hold one access key: the limit of one call in 30 s applies to the whole tenant; declare another "
                "tenant as another account"
            )
        return clients

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(columns.keys() - KNOWN_COLUMNS.keys()):
            raise ValueError(f"unknown {', '.join(unknown)}; expected some of {', '.join(KNOWN_COLUMNS)}")
        return columns

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        if self.base_url is None and self.issuer is None:
            raise ValueError("the account has no address: set issuer or base_url")
        if self.tenant_id is not None and self.issuer is None:
            raise ValueError("tenant_id has no effect without issuer: set issuer, or remove tenant_id")
        if self.login_url is None and not self.discovers_login:
            raise ValueError(
                "needs login_url, for example https://na1.nice-incontact.com/authentication/v1/token/access-key, or "
                "issuer https://cxone.niceincontact.com with tenant_id"
            )
        return self

    @property
    def discovers_login(self) -> bool:
        """Whether the login's address follows from discovery: at NICE's own issuer, for a named tenant."""
        host = (self.issuer.host or "") if self.issuer else ""
        return self.base_url is None and self.tenant_id is not None and f".{host}".endswith(_NICE_DOMAINS)


def find_addresses(account: CxoneAccount) -> AccountAddresses:
    """Return the addresses of a tenant's API and login, as far as they are known without discovery."""
    login_url = str(account.login_url) if account.login_url else None
    if account.base_url is not None:
        return AccountAddresses(str(account.base_url), login_url)
    from cache_pipeline.upstream.config import Issuer

    issuer = Issuer(
        url=str(account.issuer), tenant_id=account.tenant_id, allow_insecure_http=account.allow_insecure_http
    )
    # Until discovery has found the API's host, the issuer's host is used.
    return AccountAddresses(str(httpx.URL(issuer.url).join("/")), login_url, issuer)

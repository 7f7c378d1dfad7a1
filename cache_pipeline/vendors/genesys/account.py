"""The settings of a Genesys Cloud organisation."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, field_validator, model_validator

from cache_pipeline.settings import VendorAccount
from cache_pipeline.vendors.genesys.regions import region_address
from cache_pipeline.vendors.spec import AccountAddresses


class GenesysAccount(VendorAccount, frozen=True):
    """One organisation.

    Attributes:
        region: Instead of ``base_url``: the region, for example ``eu_central_1``.
        login_url: By default the API's host with ``api.`` replaced by ``login.``.
        retention_days: The organisation reports its own under ``analytics/dataretention/settings``.
    """

    model_config = ConfigDict(extra="forbid")

    region: str | None = None

    @field_validator("region")
    @classmethod
    def _check_region(cls, region: str | None) -> str | None:
        if region is not None:
            region_address(region)
        return region

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if (self.base_url is None) == (self.region is None):
            raise ValueError(
                f"the account has {'no address' if self.region is None else 'two addresses'}: set either region or base_url"
            )
        return self


def find_addresses(account: GenesysAccount) -> AccountAddresses:
    """Return the addresses of an organisation's API and login."""
    base_url = region_address(account.region) if account.region else str(account.base_url)
    login_url = account.login_url or base_url.rstrip("/").replace("//api.", "//login.") + "/oauth/token"
    return AccountAddresses(base_url, str(login_url))

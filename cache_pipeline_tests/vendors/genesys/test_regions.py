"""Tests of vendor regions and account settings; each error names its environment variable."""

import json
import re
import sysconfig
from pathlib import Path

import pytest

from cache_pipeline.bootstrap.accounts import open_quotas
from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import read_settings
from cache_pipeline.vendors.genesys.account import GenesysAccount, find_addresses
from cache_pipeline.vendors.genesys.regions import REGIONS, region_address
from cache_pipeline.vendors.registry import read_accounts

CLIENTS = [{"client_id": "alpha", "client_secret": "hidden"}]


def test_each_region_has_its_own_host() -> None:
    assert len(REGIONS) == len(set(REGIONS.values())) == 18
    assert region_address("eu_central_1") == "https://api.mypurecloud.de"


@pytest.mark.parametrize("region", REGIONS)
def test_login_host_is_in_the_same_region(region: str) -> None:
    account = GenesysAccount.model_validate({"region": region, "clients": CLIENTS})
    assert find_addresses(account).login_url == f"https://login.{REGIONS[region]}/oauth/token"


def test_regions_match_the_vendors_sdk() -> None:
    hosts = Path(sysconfig.get_paths()["purelib"]) / "PureCloudPlatformClientV2" / "purecloud_region_hosts.py"
    assert set(re.findall(r"https://api\.([a-z0-9.-]+)", hosts.read_text())) == set(REGIONS.values())


@pytest.mark.parametrize(
    ("platform", "account", "words"),
    [
        ("genesys", {}, "the account has no address: set either region or base_url"),
        (
            "genesys",
            {"region": "eu_west_1", "base_url": "https://api.mypurecloud.ie"},
            "two addresses: set either region or base_url",
        ),
        ("reportdata", {}, "the account has no address: set base_url"),
        ("reportdata", {"region": "eu_west_1"}, "REPORTDATA__MAIN__REGION: unknown field; expected one of base_url"),
        ("cxone", {"base_url": "https://api-na1.niceincontact.com"}, "MAIN: needs login_url"),
        ("cxone", {"issuer": "https://cxone.niceincontact.com"}, "MAIN: needs login_url.* or issuer .* with tenant_id"),
        ("cxone", {"issuer": "https://issuer.example", "tenant_id": "t"}, "MAIN: needs login_url"),
        ("cxone", {"issuer": "http://issuer.example", "login_url": "https://l.example"}, "would be sent unencrypted"),
        ("cxone", {"base_url": "https://a.example", "tenant_id": "t"}, "tenant_id has no effect without issuer"),
        ("genesys", {"issuer": "https://cxone.niceincontact.com"}, "GENESYS__MAIN__ISSUER: unknown field"),
        ("cxone", {"issuer": "https://cxone.niceincontact.com", "region": "na1"}, "CXONE__MAIN__REGION: unknown field"),
    ],
)
def test_inconsistent_account_raises_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, platform: str, account: dict[str, str], words: str
) -> None:
    monkeypatch.setenv(
        f"CACHE_PIPELINE_ACCOUNTS__{platform.upper()}__MAIN", json.dumps({**account, "clients": CLIENTS})
    )
    with pytest.raises(SettingsError, match=words) as refused:
        read_accounts(read_settings())
    assert "hidden" not in str(refused.value)


def test_tenant_with_two_access_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [{"client_id": name, "client_secret": "hidden"} for name in ("one", "two")]
    account = {"issuer": "https://cxone.niceincontact.com", "tenant_id": "t", "clients": keys}
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN", json.dumps(account))
    with pytest.raises(SettingsError, match="must hold one access key: the limit of one call in 30 s"):
        read_accounts(read_settings())


async def test_unknown_region_error_lists_the_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", json.dumps({"region": "atlantis", "clients": CLIENTS}))
    with pytest.raises(
        SettingsError,
        match="CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN__REGION: unknown region 'atlantis'; expected one of us_east_1",
    ):
        async with open_quotas(read_settings()):
            pass

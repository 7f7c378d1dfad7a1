"""Tests of vendor regions and account settings; each error names its environment variable."""

import json
import re
import sysconfig
from pathlib import Path

import pytest

from cache_pipeline.bootstrap import open_quotas
from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import VendorAccount, read_settings
from cache_pipeline.vendors.genesys.regions import REGIONS, region_address

CLIENTS = [{"client_id": "alpha", "client_secret": "hidden"}]


def test_each_region_has_its_own_host() -> None:
    assert len(REGIONS) == len(set(REGIONS.values())) == 18
    assert region_address("eu_central_1") == "https://api.mypurecloud.de"


@pytest.mark.parametrize("region", REGIONS)
def test_login_host_is_in_the_same_region(region: str) -> None:
    account = VendorAccount.model_validate({"region": region, "clients": CLIENTS})
    assert account.token_endpoint(region_address(region)) == f"https://login.{REGIONS[region]}/oauth/token"


def test_regions_match_the_vendors_sdk() -> None:
    hosts = Path(sysconfig.get_paths()["purelib"]) / "PureCloudPlatformClientV2" / "purecloud_region_hosts.py"
    assert set(re.findall(r"https://api\.([a-z0-9.-]+)", hosts.read_text())) == set(REGIONS.values())


@pytest.mark.parametrize(
    ("platform", "account", "words"),
    [
        ("genesys", {}, "set base_url or, for Genesys, region or, for CXone, issuer"),
        ("genesys", {"region": "eu_west_1", "base_url": "https://api.mypurecloud.ie"}, "set either base_url or"),
        ("reportdata", {"region": "eu_west_1"}, "only genesys supports region"),
        ("cxone", {"base_url": "https://api-na1.niceincontact.com"}, "cxone needs login_url"),
        ("cxone", {"issuer": "https://cxone.niceincontact.com"}, "cxone needs login_url.* or issuer .* with tenant_id"),
        ("cxone", {"issuer": "https://issuer.example", "tenant_id": "t"}, "cxone needs login_url"),
        ("cxone", {"issuer": "http://issuer.example", "login_url": "https://l.example"}, "would be sent unencrypted"),
        ("cxone", {"base_url": "https://a.example", "tenant_id": "t"}, "tenant_id has no effect without issuer"),
        ("genesys", {"issuer": "https://cxone.niceincontact.com"}, "only cxone supports issuer"),
        ("cxone", {"issuer": "https://cxone.niceincontact.com", "region": "na1"}, "set either base_url or"),
    ],
)
def test_inconsistent_account_raises_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, platform: str, account: dict[str, str], words: str
) -> None:
    monkeypatch.setenv(f"CACHE_PIPELINE_{platform.upper()}", json.dumps({**account, "clients": CLIENTS}))
    with pytest.raises(SettingsError, match=words) as refused:
        read_settings()
    assert "hidden" not in str(refused.value)


def test_tenant_with_two_access_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [{"client_id": name, "client_secret": "hidden"} for name in ("one", "two")]
    account = {"issuer": "https://cxone.niceincontact.com", "tenant_id": "t", "clients": keys}
    monkeypatch.setenv("CACHE_PIPELINE_CXONE", json.dumps(account))
    with pytest.raises(SettingsError, match="one access key in clients: the limit of one call in 30 s"):
        read_settings()


async def test_unknown_region_error_lists_the_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CACHE_PIPELINE_GENESYS", json.dumps({"region": "atlantis", "clients": CLIENTS}))
    with pytest.raises(
        SettingsError, match="CACHE_PIPELINE_GENESYS__REGION: unknown region 'atlantis'; expected one of us_east_1"
    ):
        async with open_quotas(read_settings()):
            pass

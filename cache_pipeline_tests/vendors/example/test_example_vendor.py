"""A vendor of another package works by registration alone: two of its accounts, from the API of each into ours."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from cache_pipeline.api.app import create_app
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import Declarations, load_reports, report_columns, report_schema_text
from cache_pipeline.doctor.runner import run_checks
from cache_pipeline.errors import SettingsError
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.vendors.registry import find_vendor, read_accounts, vendor_names
from cache_pipeline_tests.api.conftest import Api
from cache_pipeline_tests.vendors.example.server import running_vendor

REPORT = """\
name: calls_{site}
description: Calls by queue
platform: acme_calls
account: {site}
query_type: calls
granularity: PT1H
group_by: [queue]
metrics: [calls]
volume_metric: calls
partition: day
start: 2026-01-01
fetch: {{delivery: sync, expected_groups: 2}}
"""
DAY = "2026-01-05T00:00:00Z/2026-01-06T00:00:00Z"


@pytest.fixture(autouse=True)
def installed_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the vendor as a package of its own: a module, and metadata that name its entry point."""
    site_packages = tmp_path / "site-packages"
    metadata = site_packages / "acme_calls-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site_packages / "acme_calls.py").write_text(Path(__file__).with_name("acme_calls.py").read_text())
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-calls\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[cache_pipeline.vendors]\nacme_calls = acme_calls:VENDOR\n")
    monkeypatch.syspath_prepend(str(site_packages))
    find_vendor.cache_clear()
    yield
    find_vendor.cache_clear()
    sys.modules.pop("acme_calls", None)


@pytest.fixture
def settings(
    tmp_path: Path, postgres_database: str, redis_database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Return settings with two accounts of the vendor, as environment variables name them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    with running_vendor() as url:
        variables = {"POSTGRES_URL": postgres_database, "REDIS_URL": redis_database, "API__AUTH": "off"}
        for site in ("north", "south"):
            (tmp_path / "reports" / f"calls_{site}.yaml").write_text(REPORT.format(site=site))
            account = f"ACCOUNTS__ACME_CALLS__{site.upper()}"
            clients = [{"client_id": f"{site}-client", "client_secret": f"secret of {site}"}]
            variables |= {
                f"{account}__BASE_URL": url,
                f"{account}__LOGIN_URL": f"{url}/login",
                f"{account}__SITE": site,
                f"{account}__CLIENTS": json.dumps(clients),
            }
        for name, value in variables.items():
            monkeypatch.setenv(f"CACHE_PIPELINE_{name}", value)
        yield read_settings()


async def test_rows_reach_history_and_the_api(settings: Settings) -> None:
    reports = load_reports(settings)
    migrate_history(settings, reports)
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http,
        Redis.from_url(settings.required_redis_url()) as redis,
    ):
        api = Api(http, http, redis, app.state.query_service, settings, app)
        api.start_worker()
        try:
            for site, factor in (("north", 1), ("south", 100)):
                asked = await http.get(f"/v1/reports/calls_{site}", params={"interval": DAY})
                assert asked.status_code == 202
                assert (await api.wait_until_finished(asked.headers["Location"]))["state"] == "done"
                answer = await http.get(f"/v1/reports/calls_{site}", params={"interval": DAY, "granularity": "P1D"})
                rows = answer.json()["rows"]
                assert [row[-1] for row in rows] == [300 * factor, 300 * factor]
            quota = (await http.get("/v1/quota")).json()["clients"]
        finally:
            await api.stop_workers()
        service = api.query_service.report_service
        series = {site: service.series(reports[f"calls_{site}"]) for site in ("north", "south")}
        assert series["north"].id != series["south"].id
        for each in series.values():
            assert service.history.coverage(each).final
    assert {(each["account"], each["client"]) for each in quota} == {
        ("acme_calls/north", "north-client"),
        ("acme_calls/south", "south-client"),
    }


async def test_doctor_runs_the_vendors_checks(settings: Settings) -> None:
    migrate_history(settings, load_reports(settings))
    found = {each.subject: each for each in await run_checks(settings, utc_now)}
    assert found["site of acme_calls/north"].detail == "north: 200"
    assert found["login of south-client (acme_calls/south)"].status == "ok"


def test_registered_vendor_is_offered_everywhere(settings: Settings) -> None:
    assert "acme_calls" in vendor_names()
    assert "acme_calls" in json.loads(report_schema_text())["$defs"]["Report"]["properties"]["platform"]["enum"]
    report = load_reports(settings)["calls_north"]
    assert [column.name for column in report_columns(report)] == ["queue", "calls"]


def test_declaration_errors_come_from_the_vendor(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "reports" / "calls_north.yaml"
    path.write_text(path.read_text().replace("[calls]", "[visits, calls]"))
    with pytest.raises(DeclarationError, match=r"calls_north.yaml:8: metrics: there are only calls by queue"):
        Declarations(settings).read(path)


def test_missing_setting_of_the_vendor_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_PIPELINE_ACCOUNTS__ACME_CALLS__NORTH__SITE")
    with pytest.raises(SettingsError, match="CACHE_PIPELINE_ACCOUNTS__ACME_CALLS__NORTH__SITE: Field required"):
        read_accounts(read_settings())


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("acme_phones = acme_phones:VENDOR", "vendor acme_phones cannot be loaded from acme_phones:VENDOR"),
        ("acme_phones = acme_calls:VENDOR", "is not the VendorSpec of a vendor named acme_phones"),
        ("other = acme_calls:VENDOR", "unknown vendor 'acme_phones'; expected one of genesys"),
    ],
)
def test_broken_registration_is_one_clear_error(tmp_path: Path, entry: str, words: str) -> None:
    path = tmp_path / "site-packages" / "acme_calls-1.0.dist-info" / "entry_points.txt"
    path.write_text(f"[cache_pipeline.vendors]\n{entry}\n")
    with pytest.raises(SettingsError, match=words):
        find_vendor("acme_phones")

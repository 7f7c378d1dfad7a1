"""Several accounts of one vendor: named in settings and reports, and never mixed."""

import json
from datetime import date
from pathlib import Path

import pytest

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.bootstrap.reports import Declarations, load_reports
from cache_pipeline.errors import QueryError, SettingsError
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.payload import QueryPayload, find_report_for
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.report import Report
from cache_pipeline.query.rollup import find_rollup_problems
from cache_pipeline.query.series import Series
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.vendors.registry import find_vendor, read_accounts
from cache_pipeline_tests.query.declared import declared

CLIENTS = [{"client_id": "one", "client_secret": "hidden"}]
YAML = """\
name: calls
description: Calls by queue
platform: genesys
query_type: conversations
granularity: PT1H
group_by: [queueId, mediaType]
metrics: [nOffered]
partition: day
start: 2026-01-01
"""


def set_accounts(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        account = json.dumps({"region": "eu_central_1", "clients": CLIENTS})
        monkeypatch.setenv(f"CACHE_PIPELINE_ACCOUNTS__GENESYS__{name.upper()}", account)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of reports without settings."""
    monkeypatch.chdir(tmp_path)
    for platform in ("GENESYS", "REPORTDATA", "CXONE"):
        monkeypatch.delenv(f"CACHE_PIPELINE_ACCOUNTS__{platform}__MAIN", raising=False)
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    (tmp_path / "calls.yaml").write_text(YAML)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_accounts_are_plain_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    set_accounts(monkeypatch, "emea")
    prefix = "CACHE_PIPELINE_ACCOUNTS__GENESYS__AMERICAS"
    monkeypatch.setenv(f"{prefix}__REGION", "us_east_1")
    monkeypatch.setenv(f"{prefix}__RATE_LIMIT", "120")
    monkeypatch.setenv(f"{prefix}__CLIENTS", json.dumps([{"client_id": "7", "client_secret": "1234"}]))
    settings = read_settings()
    accounts = read_accounts(settings)
    assert sorted(accounts) == ["genesys/americas", "genesys/emea"]
    config = connect_vendor(settings, "genesys/americas").config
    assert (config.account, config.base_url) == ("genesys/americas", "https://api.mypurecloud.com")
    assert config.policy.limit == 120
    assert config.clients[0].client_secret.get_secret_value() == "1234"
    assert "1234" not in repr(settings) + str(settings.model_dump()) + repr(accounts)


def test_field_of_a_vendors_own_is_masked_until_the_vendor_reads_it() -> None:
    account = {"private_key": "do-not-show", "clients": CLIENTS, "base_url": "https://a.example"}
    settings = Settings.model_validate({"accounts": {"elsewhere": {"main": account}}})
    assert "do-not-show" not in repr(settings) + str(settings.model_dump())
    assert settings.accounts["elsewhere"]["main"].given_fields()["private_key"] == "do-not-show"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "ACCOUNTS__GENESYS__MAIN__REGIN",
            "eu",
            "ACCOUNTS__GENESYS__MAIN__REGIN: unknown field; expected one of base_url",
        ),
        ("ACCOUNTS__GENESYS__MAIN__REGION", "mars", "ACCOUNTS__GENESYS__MAIN__REGION: unknown region 'mars'"),
        (
            "ACCOUNTS__GENESIS__MAIN",
            json.dumps({"clients": CLIENTS}),
            "unknown vendor 'genesis'; expected one of genesys",
        ),
        ("ACCOUNTS__GENESYS__E-MEA", json.dumps({"clients": CLIENTS}), "a name has up to 32 lower-case letters"),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_account_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    set_accounts(monkeypatch, "main")
    monkeypatch.setenv(f"CACHE_PIPELINE_{name}", value)
    with pytest.raises(SettingsError, match=words) as refused:
        read_accounts(read_settings())
    assert "hidden" not in str(refused.value)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("first", "start"), [("1999-01-04", "1999-01-04"), ("2026-03-01", "2026-01-01")])
def test_report_begins_no_later_than_its_partitions(monkeypatch: pytest.MonkeyPatch, first: str, start: str) -> None:
    monkeypatch.setenv("CACHE_PIPELINE_PARTITIONS_FROM", first)
    assert load_reports(read_settings())["calls"].start == date.fromisoformat(start)


def test_only_account_need_not_be_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_reports(read_settings())["calls"].account is None
    set_accounts(monkeypatch, "emea")
    assert load_reports(read_settings())["calls"].account == "emea"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", r"calls.yaml:1: account: is missing, and genesys has several accounts: name one of americas, emea"),
        ("account: apac", r"calls.yaml:10: account: unknown account 'apac' of genesys; expected one of americas, emea"),
        ("account: Ap/ac", r"calls.yaml:10: account: 'Ap/ac' is not a name of an account"),
    ],
)
def test_ambiguous_or_unknown_account_is_named_with_its_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    set_accounts(monkeypatch, "americas", "emea")
    (project / "calls.yaml").write_text(YAML + line + "\n")
    with pytest.raises(DeclarationError, match=words):
        load_reports(read_settings())


def test_account_is_part_of_the_series() -> None:
    unnamed, main, other = (Series(declared(account=name)) for name in (None, "main", "emea"))
    assert unnamed.id == main.id
    assert other.id != main.id


def of_account(name: str) -> Report:
    return declared(name=f"calls_{name}", account=name)


def test_rows_of_another_account_are_not_rolled_up() -> None:
    north, south = of_account("north"), of_account("south")
    problems = dict(find_rollup_problems(north, south, find_vendor("reportdata").adapter.columns(north)))
    assert problems == {"query_type": "calls_north has rows of queue-performance of reportdata/north"}


def test_query_that_several_accounts_answer_must_name_a_report() -> None:
    reports = {report.name: report for report in (of_account("north"), of_account("south"))}
    columns = find_vendor("reportdata").adapter.columns

    def ask(subject: str) -> str:
        payload = QueryPayload(
            "reportdata", subject, "2026-01-05T00:00:00+01:00/2026-01-06T00:00:00+01:00", QueryOverrides()
        )
        return find_report_for(payload, reports, columns).declared.name

    assert ask("calls_south") == "calls_south"
    with pytest.raises(
        QueryError, match=r"reports of several accounts .reportdata/north, reportdata/south. answer this"
    ):
        ask("queue-performance")


def test_scaffolding_and_editors_need_no_account() -> None:
    assert list(Declarations().find_problems(of_account("north"))) == []

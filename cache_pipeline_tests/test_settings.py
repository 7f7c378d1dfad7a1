"""A misspelt setting is refused with the nearest name, and never silently ignored."""

from pathlib import Path

import pytest

from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import read_settings

ACCOUNT = (
    '{"base_url": "https://api.example.com", "clients": [{"client_id": "a", "client_secret": "planted", "wieght": 2}]}'
)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CACHE_PIPELINE_TENNANT", "acme", "CACHE_PIPELINE_TENNANT: .*did you mean CACHE_PIPELINE_TENANT?"),
        ("CACHE_PIPELINE_POSTGRESS_URL", "planted", "did you mean CACHE_PIPELINE_POSTGRES_URL?"),
        (
            "CACHE_PIPELINE_POSTGRES_URI_FILE",
            "planted",
            "CACHE_PIPELINE_POSTGRES_URI_FILE: .*CACHE_PIPELINE_POSTGRES_URL?",
        ),
        ("CACHE_PIPELINE_API__REQUEST_PER_MINUTE", "9", "did you mean CACHE_PIPELINE_API__REQUESTS_PER_MINUTE?"),
        ("CACHE_PIPELINE_API_AUTH", "off", "did you mean CACHE_PIPELINE_API__AUTH?"),
        ("CACHE_PIPELINE_ACCOUNT__EXAMPLE__MAIN", "planted", "CACHE_PIPELINE_ACCOUNT__EXAMPLE__MAIN: there is no such"),
        ("CACHE_PIPELINE_SOMETHING", "planted", "CACHE_PIPELINE_SOMETHING: there is no such setting"),
        ("CACHE_PIPELINE_API", '{"auht": "planted"}', "CACHE_PIPELINE_API__AUHT: there is no such setting"),
        ("CACHE_PIPELINE_ACCOUNTS__EXAMPLE__MAIN", ACCOUNT, "CLIENTS__0__WIEGHT: there is no such setting"),
    ],
)
def test_unknown_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, message: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=message) as raised:
        read_settings()
    assert "planted" not in f"{raised.value} {raised.value.remedy}"


def test_unknown_variable_in_dotenv_is_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("cache_pipeline_tennant=acme\n")
    with pytest.raises(SettingsError, match="did you mean CACHE_PIPELINE_TENANT"):
        read_settings()


@pytest.mark.parametrize(
    "variable", ["CACHE_PIPELINE_TEST_EXAMPLE", "CACHE_PIPELINE_CELERY_BROKER_URL", "CACHE_PIPELINEX", "OTHER_TENNANT"]
)
def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "x")
    read_settings()


def test_every_setting_may_be_given_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("redis://127.0.0.1:9/0")
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("cache_pipeline_tenant", "acme")
    monkeypatch.setenv("CACHE_PIPELINE_API__AUTH", "off")
    settings = read_settings()
    assert (settings.tenant, settings.api.auth, settings.redis_url is not None) == ("acme", "off", True)

"""Secrets in settings: read from files, masked, and never sent unencrypted."""

import pytest

from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import Settings, read_settings

SECRET = "a-secret-9c41"
ACCOUNT = '{"base_url": "%s", "clients": [{"client_id": "one", "client_secret": "' + SECRET + '"}]}'


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("POSTGRES_URL", "REDIS_URL", "ACCOUNTS__GENESYS__MAIN", "JOBS"):
        monkeypatch.delenv(f"CACHE_PIPELINE_{name}", raising=False)


def write_secret(tmp_path, content):
    path = tmp_path / "secret"
    path.write_text(content)
    return str(path)


def test_every_secret_can_be_read_from_a_file(monkeypatch, tmp_path):
    url = f"postgresql://u:{SECRET}@127.0.0.1/db"
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL_FILE", write_secret(tmp_path, url + "\n"))
    account = tmp_path / "account.json"
    account.write_text(ACCOUNT % "https://api.mypurecloud.de")
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN_FILE", str(account))
    queue = tmp_path / "queue"
    queue.write_text(f"amqp://u:{SECRET}@127.0.0.1")
    monkeypatch.setenv("CACHE_PIPELINE_JOBS__QUEUE_URL_FILE", str(queue))
    monkeypatch.setenv("CACHE_PIPELINE_JOBS__CONCURRENCY", "7")
    settings = read_settings()
    assert settings.required_postgres_url() == url
    assert settings.accounts["genesys"]["main"].clients[0].client_secret.get_secret_value() == SECRET
    assert settings.jobs.queue_url.get_secret_value() == queue.read_text()
    assert settings.jobs.concurrency == 7
    assert SECRET not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_missing_or_empty_secret_file_is_named(monkeypatch, tmp_path, content):
    path = str(tmp_path / "missing") if content is None else write_secret(tmp_path, content)
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL_FILE", path)
    with pytest.raises(SettingsError, match="CACHE_PIPELINE_REDIS_URL_FILE"):
        read_settings()


def test_secret_given_twice_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL_FILE", write_secret(tmp_path, f"redis://:{SECRET}@h"))
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", f"redis://:{SECRET}@h")
    with pytest.raises(SettingsError, match="both set") as refused:
        read_settings()
    assert SECRET not in str(refused.value)


def test_arguments_take_precedence_over_files(monkeypatch, tmp_path):
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL_FILE", write_secret(tmp_path, "redis://file"))
    assert Settings(redis_url="redis://code").required_redis_url() == "redis://code"


@pytest.mark.parametrize("url", ["http://api.example.com", "http://10.0.0.7:8090"])
def test_secrets_are_not_sent_without_tls(monkeypatch, url):
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", ACCOUNT % url)
    with pytest.raises(SettingsError, match="unencrypted") as refused:
        read_settings()
    assert SECRET not in str(refused.value)
    monkeypatch.setenv(
        "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", (ACCOUNT % url)[:-1] + ', "allow_insecure_http": true}'
    )
    assert read_settings().accounts["genesys"]["main"].is_insecure


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8090", "http://localhost", "http://[::1]:8090", "https://api.example.com"]
)
def test_loopback_and_tls_are_always_allowed(monkeypatch, url):
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", ACCOUNT % url)
    assert not read_settings().accounts["genesys"]["main"].is_insecure

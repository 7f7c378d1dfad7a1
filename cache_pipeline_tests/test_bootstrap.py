"""A service that starts before its database waits for it, up to a limit; a URL that is refused fails at once."""

import logging
import socket
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from pydantic import SecretStr

from cache_pipeline.bootstrap.database import migrate_when_available
from cache_pipeline.errors import HistoryRefused, HistoryUnavailable
from cache_pipeline.settings import Settings


class FakeTime:
    """A clock that advances only when something sleeps."""

    def __init__(self, then=lambda: None):
        self.now, self.slept, self._then = 0.0, [], then

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        self._then()


def migrate(url, time, seconds=120.0):
    settings = Settings(postgres_url=SecretStr(url), startup_seconds=seconds)
    migrate_when_available(settings, {}, sleep=time.sleep, clock=lambda: time.now)


def replace_parts(url, **parts):
    return urlunsplit(urlsplit(url)._replace(**parts))


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_startup_waits_for_server_and_logs_attempts(closed_port, caplog):
    time = FakeTime()
    url = f"postgresql://user:planted-secret@127.0.0.1:{closed_port}/database"
    with pytest.raises(HistoryUnavailable, match=r"cannot be reached.*tried 8 times in 30 s"):
        migrate(url, time, 30.0)
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 4.5]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 7
    assert all("planted-secret" not in line for line in lines)
    assert lines[1].startswith("attempt 2: PostgreSQL at 127.0.0.1 cannot be reached")
    assert lines[1].endswith("trying again in 1.0 s, for at most 30 s")


def test_zero_startup_seconds_means_no_wait(closed_port):
    time = FakeTime()
    with pytest.raises(HistoryUnavailable):
        migrate(f"postgresql://user:x@127.0.0.1:{closed_port}/database", time, 0)
    assert time.slept == []


def test_server_that_starts_late_is_migrated(postgres_database, monkeypatch):
    late = {"url": replace_parts(postgres_database, netloc="nobody:x@127.0.0.1:1")}

    def start():
        late["url"] = postgres_database

    monkeypatch.setattr(Settings, "required_postgres_url", lambda _self: late["url"])
    time = FakeTime(then=start)
    migrate("postgresql://replaced", time)
    assert time.slept == [0.5]
    with psycopg.connect(postgres_database) as connection:
        connection.execute("SELECT count(*) FROM cache_pipeline_state.coverage")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("password", "user or password is wrong"), ("database", "its database does not exist"), ("user", "password")],
)
def test_refused_url_fails_at_once_without_its_password(postgres_url, wrong, message):
    parts = urlsplit(postgres_url)
    user, where = f"{parts.username}:{parts.password}", f"{parts.hostname}:{parts.port}"
    url = {
        "password": replace_parts(postgres_url, netloc=f"{parts.username}:planted-secret@{where}"),
        "user": replace_parts(postgres_url, netloc=f"nobody:planted-secret@{where}"),
        "database": replace_parts(postgres_url, netloc=f"{user}@{where}", path="/not_there"),
    }[wrong]
    time = FakeTime()
    with pytest.raises(HistoryRefused, match=message) as refused:
        migrate(url, time)
    assert time.slept == []
    assert "planted-secret" not in str(refused.value)

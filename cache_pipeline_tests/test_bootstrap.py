"""A service that comes up before its database waits for it, within bounds; a URL that will never do is told of at once."""

import logging
import socket
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from pydantic import SecretStr

from cache_pipeline.bootstrap import migrate_when_available
from cache_pipeline.errors import HistoryRefused, HistoryUnavailable
from cache_pipeline.settings import Settings


class Time:
    """Passes when somebody sleeps."""

    def __init__(self, then=lambda: None):
        self.now, self.slept, self._then = 0.0, [], then

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        self._then()


def waits(url, time, seconds=120.0):
    settings = Settings(postgres_url=SecretStr(url), startup_seconds=seconds)
    migrate_when_available(settings, {}, sleep=time.sleep, clock=lambda: time.now)


def changed(url, **parts):
    return urlunsplit(urlsplit(url)._replace(**parts))


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_does_not_come_is_waited_for_as_long_as_is_said_and_told_of_at_each_try(closed_port, caplog):
    time = Time()
    url = f"postgresql://user:planted-secret@127.0.0.1:{closed_port}/database"
    with pytest.raises(HistoryUnavailable, match=r"cannot be reached.*tried 8 times in 30 s"):
        waits(url, time, 30.0)
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 4.5]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 7
    assert all("planted-secret" not in line for line in lines)
    assert lines[1].startswith("try 2: PostgreSQL cannot be reached")
    assert lines[1].endswith("again in 1.0 s, for 30 s at most")


def test_no_wait_at_all_can_be_asked_for(closed_port):
    time = Time()
    with pytest.raises(HistoryUnavailable):
        waits(f"postgresql://user:x@127.0.0.1:{closed_port}/database", time, 0)
    assert time.slept == []


def test_a_server_that_comes_late_is_migrated_when_it_is_there(postgres_database, monkeypatch):
    late = {"url": changed(postgres_database, netloc="nobody:x@127.0.0.1:1")}

    def comes():
        late["url"] = postgres_database

    monkeypatch.setattr(Settings, "required_postgres_url", lambda _self: late["url"])
    time = Time(then=comes)
    waits("postgresql://replaced", time)
    assert time.slept == [0.5]
    with psycopg.connect(postgres_database) as connection:
        connection.execute("SELECT count(*) FROM cache_pipeline_state.coverage")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [("password", "user or password is wrong"), ("database", "its database does not exist"), ("user", "password")],
)
def test_a_url_that_is_refused_is_told_of_at_once_and_without_the_password(postgres_url, wrong, told):
    parts = urlsplit(postgres_url)
    user, where = f"{parts.username}:{parts.password}", f"{parts.hostname}:{parts.port}"
    url = {
        "password": changed(postgres_url, netloc=f"{parts.username}:planted-secret@{where}"),
        "user": changed(postgres_url, netloc=f"nobody:planted-secret@{where}"),
        "database": changed(postgres_url, netloc=f"{user}@{where}", path="/not_there"),
    }[wrong]
    time = Time()
    with pytest.raises(HistoryRefused, match=told) as refused:
        waits(url, time)
    assert time.slept == []
    assert "planted-secret" not in str(refused.value)

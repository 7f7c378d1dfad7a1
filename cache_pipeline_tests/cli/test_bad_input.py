"""Tests of bad input at the command line: one clear line, exit code 2, nothing written."""

import errno
import json
import socket
import sys
from pathlib import Path

import psycopg
import pytest

from cache_pipeline.cli.main import main
from cache_pipeline.storage.postgres.migrate import migrate

SECRET = "planted-secret-value"


@pytest.fixture
def project(tmp_path, monkeypatch, no_settings):
    """Create a project folder with the repository's reports."""
    repository = Path(__file__).parents[2]
    folder = tmp_path / "project"
    (folder / "reports").mkdir(parents=True)
    for report in (repository / "reports").glob("*.yaml"):
        (folder / "reports" / report.name).write_text(report.read_text())
    (folder / "dagster.yaml").write_text((repository / "dagster.yaml").read_text())
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(project, monkeypatch, capsys):
    """Return a function that runs a command line and returns its exit code and standard error."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        return exited.value.code, capsys.readouterr().err

    return command


def assert_one_line(outcome, *parts):
    code, stderr = outcome
    assert code == 2
    assert stderr.startswith("cache-pipeline: ")
    assert stderr.count("\n") == 1
    for part in parts:
        assert part in stderr


def files_of(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("field", "line", "written", "message"),
    [
        ("granularity", 7, "granularity: PT17M", "'PT17M' is not a calendar step"),
        ("metrics", 9, "metrics: []", "at least 1 item"),
        ("time_zone", 11, "time_zone: Europe/Berlim", "not in the IANA database"),
        ("colour", 22, "owners: []\ncolour: red", "unknown field"),
        ("platform", 5, "platform: reportdatum", "expected one of genesys, reportdata"),
    ],
)
@pytest.mark.parametrize("command", ["reports", "demo"])
def test_declaration_error_names_file_line_and_field(run, project, field, line, written, message, command):
    path = project / "reports" / "queue_interval.yaml"
    replaced = written.split(":")[0]
    path.write_text(
        "\n".join(written if text.startswith(f"{replaced}:") else text for text in path.read_text().splitlines())
    )
    before = files_of(project)
    assert_one_line(run(command), f"reports/queue_interval.yaml:{line}: {field}: ", message)
    assert files_of(project) == before


def test_errors_of_all_files_are_reported_together(run, project):
    for name in ("queue_interval", "queue_day"):
        path = project / "reports" / f"{name}.yaml"
        path.write_text(path.read_text().replace("Europe/Berlin", "Europe/Berlim"))
    path.write_text(path.read_text() + "colour: red\n")
    code, stderr = run("reports")
    assert code == 2
    places = ["queue_day.yaml:11: time_zone: ", "queue_day.yaml:", "queue_interval.yaml:11: time_zone: "]
    for line, place in zip(sorted(stderr.splitlines(), key=lambda each: "interval" in each), places, strict=True):
        assert line.startswith(f"cache-pipeline: reports/{place}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "no_such_report", "2026-01-01/2026-01-02"], "declared reports: conversation_day"),
        (["query", "queue_day", "2026-01-02/2026-01-01"], "is reversed"),
        (["query", "queue_day", "2026-01-02/2026-01-02"], "is empty"),
        (["query", "queue_day", "2026-01-02/.."], "is open"),
        (["query", "queue_day", "2026-01-02"], "is open"),
        (["query", "queue_day", "yesterday/today"], "not an ISO 8601 date"),
        (["query", "queue_day", "2026-01-01/2026-01-02"], "CACHE_PIPELINE_POSTGRES_URL is not set"),
        (["migrate"], "CACHE_PIPELINE_POSTGRES_URL is not set"),
        (["demo", "--from", "2026-01-03", "--to", "2026-01-01"], "does not lie before"),
        (["demo", "--from", "2026-01-01", "--to", "2126-01-01"], "is in the future"),
        (["demo", "--from", "tomorrow"], "does not match the format"),
        (["demo", "--arrivals", "none.csv", "--from", "1999-01-01", "--to", "1999-01-02"], "none.csv cannot be read"),
        (["demo", "--arrivals", "calls.csv"], "FROM=1999-01-04 TO=1999-01-18"),
        (["simulator", "--port", "99999"], "99999"),
        (["no-such-command"], "No such command"),
        (["query", "queue_day"], "Missing argument"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(run, project, arguments, message):
    (project / "calls.csv").write_text("start,calls\n1999-01-01T00:00:00,1\n")
    before = files_of(project)
    assert_one_line(run(*arguments), message)
    assert files_of(project) == before


def test_invalid_arrivals_file_is_named_with_line(run, project):
    (project / "calls.csv").write_text("start,calls\n1999-01-01T00:00:00,1\n1999-01-01T00:06:00,many\n")
    outcome = run("demo", "--arrivals", "calls.csv", "--from", "1999-01-01", "--to", "1999-01-02")
    assert_one_line(outcome, "calls.csv", "line 3")


@pytest.mark.parametrize("command", [["demo"], ["dev"]])
def test_dagster_commands_require_the_project_folder(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert_one_line(run(*command), "has no dagster.yaml")


def test_port_in_use_is_named(run):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        assert_one_line(run("dev", "--port", port), f"port {port} cannot be used", "--port")
        assert_one_line(run("simulator", "--port", port), port)


def test_unwritable_data_folder_is_named(run, project, monkeypatch):
    (project / "taken").write_text("a file instead of a folder")
    monkeypatch.setenv("CACHE_PIPELINE_DATA_DIR", str(project / "taken"))
    assert_one_line(run("demo"), "taken")


def test_invalid_setting_names_variable_but_not_value(run, monkeypatch):
    account = {"base_url": "nowhere", "clients": [{"client_id": "a", "client_secret": SECRET}]}
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", json.dumps(account))
    code, stderr = run("reports")
    assert_one_line((code, stderr), "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN__BASE_URL")
    assert SECRET not in stderr


def test_unreachable_server_is_named_without_password(run, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", f"postgresql://user:{SECRET}@127.0.0.1:9/none")
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", "redis://127.0.0.1:9/0")
    code, stderr = run("query", "queue_day", "2026-01-01/2026-01-02")
    assert_one_line((code, stderr), "cannot be reached", "CACHE_PIPELINE_POSTGRES_URL")
    assert SECRET not in stderr


def test_database_of_a_newer_version_is_named(run, servers, postgres_database):
    migrate(postgres_database, [])
    with psycopg.connect(postgres_database) as connection:
        connection.execute("UPDATE cache_pipeline_state.alembic_version SET version_num = '9999_future'")
    assert_one_line(run("migrate"), "migration 9999_future", "install the version of cache_pipeline")


def test_query_continues_without_redis_and_warns(run, monkeypatch, postgres_database, caplog):
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", "redis://127.0.0.1:9/0")
    # Without Redis nothing is sent for one window, because other processes may have filled it.
    account = _account("http://127.0.0.1:9", window_seconds=1)
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", account)
    assert_one_line(run("query", "queue_day", "2026-01-01/2026-01-02"), "cannot reach 127.0.0.1")
    assert "CACHE_PIPELINE_REDIS_URL" in caplog.text


def test_report_without_account_names_the_settings(run, servers):
    outcome = run("query", "queue_day", "2026-01-01/2026-01-02")
    assert_one_line(outcome, "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN")


def test_unreachable_vendor_is_named(run, servers, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", _account("http://127.0.0.1:9"))
    code, stderr = run("query", "queue_day", "2026-01-01/2026-01-02")
    assert_one_line((code, stderr), "cannot reach 127.0.0.1")
    assert SECRET not in stderr


def test_refused_login_names_client_but_not_secret(run, servers, monkeypatch, simulator_url):
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN", _account(simulator_url))
    code, stderr = run("query", "queue_day", "2026-01-01/2026-01-02")
    assert_one_line((code, stderr), "login refused for OAuth client example-client")
    assert SECRET not in stderr


def _account(base_url, **more):
    client = {"client_id": "example-client", "client_secret": SECRET}
    return json.dumps({"base_url": base_url, "login_url": f"{base_url}/oauth/token", "clients": [client], **more})


def test_full_temporary_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail_with_full_disk(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/nowhere")

    monkeypatch.setattr("cache_pipeline.cli.main.cli.main", fail_with_full_disk)
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "the folder /nowhere cannot be written" in lines[0]
    assert "free space there" in lines[0]

"""Fixtures: a small project folder, and the command line as a process in it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
REPORTS = ("queue_interval", "conversation_day")


@pytest.fixture
def project(tmp_path):
    """Create a folder with two of the repository's declarations and its Dagster files."""
    folder = tmp_path / "project"
    (folder / "reports").mkdir(parents=True)
    for name in REPORTS:
        shutil.copy(REPOSITORY / "reports" / f"{name}.yaml", folder / "reports")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.fixture
def production_settings(project):
    """Name a real deployment in `.env`, of which nothing may be used; return the folder of its edge store."""
    edge = project / "production-edge"
    (project / ".env").write_text(
        f"""CACHE_PIPELINE_POSTGRES_URL=postgresql://user:password@127.0.0.1:1/production
CACHE_PIPELINE_REDIS_URL=redis://127.0.0.1:1/0
CACHE_PIPELINE_EDGE_URL=file://{edge}
CACHE_PIPELINE_TENANT=acme
CACHE_PIPELINE_API__CORS_ORIGINS=["*"]
CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN={{"base_url": "https://127.0.0.1:1", "clients": [{{"client_id": "a", "client_secret": "b"}}]}}
"""
    )
    return edge


class CommandLine:
    """``cache-pipeline`` in its own process group, as a terminal starts it."""

    def __init__(self, folder, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
        self.log = folder / "command.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", *arguments],
                cwd=folder,
                env={**environment, "COLUMNS": "160", "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds):
        """Wait for the exit code, at most so many seconds."""
        return self.process.wait(seconds)

    def output(self):
        return self.log.read_text()

    def interrupt(self):
        """Send SIGINT to the process group, as Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self):
        """Kill the process alone, with SIGKILL."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def command_line(project):
    started = []

    def start(*arguments):
        command = CommandLine(project, *arguments)
        started.append(command)
        return command

    yield start
    for command in started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGTERM)
            command.process.wait(60)
    assert wait_until_no_processes(project)


def processes_of(folder):
    """Return the processes whose command line or working folder is in the project's folder; none without /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            seen = (entry / "cmdline").read_bytes() + os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if os.fsencode(folder) in seen:
            found.append(int(entry.name))
    return found


def wait_until_no_processes(folder, seconds=40):
    """Wait until no process of the folder runs any more; return False if some still do."""
    deadline = time.monotonic() + seconds
    while processes_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True

"""A small project folder of its own, and the command line as a process in it."""

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
    """The repository's declarations of two reports, and its Dagster files."""
    folder = tmp_path / "project"
    (folder / "reports").mkdir(parents=True)
    for name in REPORTS:
        shutil.copy(REPOSITORY / "reports" / f"{name}.yaml", folder / "reports")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


class CommandLine:
    """``cache-pipeline`` in a process group of its own, as a terminal would start it."""

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

    def ended(self, seconds):
        """The exit code, within so many seconds."""
        return self.process.wait(seconds)

    def said(self):
        return self.log.read_text()

    def interrupt(self):
        """Ctrl-C in a terminal: everybody in the foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self):
        """kill -9, of the process alone."""
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
    assert leftovers_are_gone(project)


def processes_of(folder):
    """Processes whose command line or working folder names the project's folder; none where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            seen = (entry / "cmdline").read_bytes() + os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if os.fsencode(folder) in seen:
            found.append(int(entry.name))
    return found


def leftovers_are_gone(folder, seconds=40):
    """Whether nothing that was started for the folder runs on, after a while."""
    deadline = time.monotonic() + seconds
    while processes_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True

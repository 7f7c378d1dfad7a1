"""The tutorial, typed into a shell as it stands, in a folder as a clone has it."""

import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache_pipeline_tests.docs.test_commands import blocks
from cache_pipeline_tests.end_to_end.conftest import REPOSITORY

pytestmark = [pytest.mark.timeout(600), pytest.mark.serial]
#: Commands that stay up: the first is started here, and the UI's has a test of its own, `test_dev`.
STAYING_UP = re.compile(r"^cache-pipeline (simulator|with-servers -- dagster dev)")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_tutorial_ends_with_a_report_that_is_kept(project, command_line):
    port = free_port()
    command_line("simulator", "--port", str(port))
    folder = Path(sys.executable).parent
    # The page's days would pass out of what a vendor still has.
    first, second = (datetime.now(UTC).date() - timedelta(days=ago) for ago in (5, 4))
    steps = [
        block.replace("8090", str(port)).replace("2026-11-16", str(first)).replace("2026-11-17", str(second))
        for block in blocks(REPOSITORY / "docs" / "tutorial.md")
        if not STAYING_UP.match(block) and ".venv" not in block
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    done = subprocess.run(
        ["bash", "-ex", "-c", "".join(steps)],
        cwd=project,
        env={**environment, "PATH": f"{folder}:{environment['PATH']}", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Hours add up to days: once the hours are kept, the day's totals cost nothing.
    assert re.findall(r'"upstreamQueries": (\d+)', done.stdout) == ["1", "0"], done.stdout
    assert done.stdout.count('"completeThrough"') == 3, done.stdout

"""Test that runs the tutorial's commands in a shell, in a folder like a clone of the repository."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache_pipeline_tests.docs.test_commands import shell_blocks
from cache_pipeline_tests.end_to_end.conftest import REPOSITORY, CommandLine

pytestmark = [pytest.mark.timeout(600), pytest.mark.system]
#: Commands that keep running: this test starts the first; `test_dev` covers the UI's.
KEEPS_RUNNING = re.compile(r"^cache-pipeline (simulator|with-servers -- dagster dev)")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_tutorial_ends_with_a_stored_report(project: Path, command_line: Callable[..., CommandLine]):
    port = free_port()
    command_line("simulator", "--port", str(port))
    folder = Path(sys.executable).parent
    # The page's fixed days would fall out of the vendor's retention. So take the Monday of last week and the day after it, because a
    # day of a weekend, which has few calls, takes more queries to be proven.
    today = datetime.now(UTC).date()
    first = today - timedelta(days=today.weekday() + 7)
    second = first + timedelta(days=1)
    commands = [
        block.replace("8090", str(port)).replace("2026-11-16", str(first)).replace("2026-11-17", str(second))
        for block in shell_blocks(REPOSITORY / "docs" / "tutorial.md")
        if not KEEPS_RUNNING.match(block) and ".venv" not in block
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    result = subprocess.run(
        ["bash", "-ex", "-c", "".join(commands)],
        cwd=project,
        env={**environment, "PATH": f"{folder}:{environment['PATH']}", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # The day's totals are rolled up from the stored hours and cost no query.
    assert re.findall(r'"upstreamQueries": (\d+)', result.stdout) == ["1", "0"], result.stdout
    assert result.stdout.count('"completeThrough"') == 3, result.stdout

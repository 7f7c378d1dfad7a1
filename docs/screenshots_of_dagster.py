"""Take docs/images/dagster-*.png anew, of the system that ``make dev`` starts: ``python -m docs.screenshots_of_dagster``.

Needs Chromium; takes a few minutes. Everything runs in a folder of its own, which is removed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

_PROJECT = Path(__file__).parents[1]
_IMAGES = Path(__file__).parent / "images"
_DAYS = 15
_SECONDS = 1200
#: What is seen, by name of the picture: page, a text that is there when it is drawn, and its height.
_PICTURES = {}


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _dev(folder: Path, port: int) -> Generator[None]:
    """``cache-pipeline dev`` over made-up figures of the last days, until the block ends."""
    shutil.copytree(_PROJECT / "reports", folder / "reports")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(_PROJECT / name, folder)
    today = datetime.now(UTC).date()
    days = ["--from", str(today - timedelta(days=_DAYS)), "--to", str(today)]
    command = [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", "dev", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    environment["PYTHONPATH"] = str(_PROJECT)
    with subprocess.Popen(  # noqa: S603
        [*command, "--api-port", str(_free_port()), *days], cwd=folder, env=environment, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)

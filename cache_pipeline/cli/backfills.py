"""Backfill all reports at the same time, each as a Dagster run in its own process, with a progress bar each."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cache_pipeline.cli.child_process import start_bound_child
from cache_pipeline.cli.demo_environment import DemoEnvironment
from cache_pipeline.orchestration.backfill_outcome import BackfillOutcome
from cache_pipeline.query.report import Report


def run_backfills(demo: DemoEnvironment, reports: Iterable[Report], console: Console) -> dict[str, BackfillOutcome]:
    """Backfill the days of a demo for some reports, and return an outcome for each."""
    outcomes: dict[str, BackfillOutcome] = {}
    columns = (TextColumn("{task.description:<38}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars, ExitStack() as stack:
        threads: list[threading.Thread] = []
        for report in reports:
            name = report.name
            process = stack.enter_context(
                start_bound_child(_command(demo, report), demo.environment, folder=demo.folder, capture=True)
            )
            bar = bars.add_task(name, total=None)
            thread = threading.Thread(target=_follow, args=(process, name, bars, bar, outcomes), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            # A join without a limit would keep Ctrl-C waiting.
            while thread.is_alive():
                thread.join(0.2)
    return dict(sorted(outcomes.items()))


def _command(demo: DemoEnvironment, report: Report) -> list[str]:
    module = "cache_pipeline.orchestration.backfill"
    days = [day.isoformat() for day in demo.days(report)]
    # No other process can have a run on the demo's own servers, so a run still marked as started was killed.
    return [sys.executable, "-m", module, report.name, *days, "--exclusive"]


def _follow(
    process: "subprocess.Popen[str]", name: str, bars: Progress, bar: TaskID, outcomes: dict[str, BackfillOutcome]
) -> None:
    errors: list[str] = []
    drain = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    drain.start()
    outcome: BackfillOutcome | None = None
    for line in process.stdout or ():
        message = json.loads(line)
        if "outcome" in message:
            outcome = message["outcome"]
        else:
            staged = message["done"] == message["total"]
            text = f"{name}: checking, publishing" if staged else name
            bars.update(bar, description=text, completed=message["done"], total=message["total"])
    process.wait()
    drain.join()
    if outcome is None:
        text = [line.strip() for line in errors if line.strip() and not line.startswith((" ", "Traceback"))]
        outcome = BackfillOutcome(
            report=name,
            run_id="",
            success=False,
            partitions=0,
            error=text[-1] if text else f"its process ended with code {process.returncode}",
            checks=[],
        )
    outcomes[name] = outcome
    if outcome["success"]:
        bars.update(bar, description=f"{name}: done", completed=outcome["partitions"], total=outcome["partitions"])
    else:
        bars.update(bar, description=f"{name}: failed")

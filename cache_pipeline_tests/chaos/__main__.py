"""Command line of the chaos test: ``python -m cache_pipeline_tests.chaos --seconds 300 --seed 7``; exits with 0 only without violations."""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cache_pipeline_tests.api.jobs.rabbitmq import BROKERS
from cache_pipeline_tests.chaos.faults import make_schedule
from cache_pipeline_tests.chaos.outcome import CATEGORIES, Outcome
from cache_pipeline_tests.chaos.run import ChaosRun
from cache_pipeline_tests.programs import locate_program
from cache_pipeline_tests.storage.postgres.pgbouncer import PGBOUNCER

_MAX_PRINTED = 10
#: Servers that come with the operating system, and the names of their programs.
_PRODUCTS = {"RabbitMQ": BROKERS, "PgBouncer": (PGBOUNCER,)}


def _print(outcome: Outcome, seed: int, seconds: float, console: Console) -> None:
    counts = Table(title="Events")
    counts.add_column("event")
    counts.add_column("count", justify="right")
    for event, times in sorted(outcome.counts.items()):
        counts.add_row(event, f"{times:,}")
    console.print(counts)
    table = Table(title=f"Violations after {seconds:.0f} s of faults with seed {seed}")
    table.add_column("")
    table.add_column("count", justify="right")
    for category in CATEGORIES:
        found = outcome.violations[category]
        table.add_row(category, f"[{'red' if found else 'green'}]{len(found)}[/]")
    table.add_section()
    table.add_row("busiest window ÷ the vendor's request limit", f"{outcome.peak_window_share:.2f}")
    table.add_row("failed jobs, each with a reason", f"{outcome.failures.total()} of {_count_jobs(outcome)}")
    console.print(table)
    for reason, times in outcome.failures.most_common():
        console.print(f"{times} failed: {reason}", highlight=False, soft_wrap=True)
    for category in CATEGORIES:
        for violation in list(outcome.violations[category])[:_MAX_PRINTED]:
            console.print(f"[red]{category}[/]: {violation}", highlight=False, soft_wrap=True)


def _count_jobs(outcome: Outcome) -> int:
    return sum(times for event, times in outcome.counts.items() if event.startswith("jobs "))


def main() -> int:
    """Run the chaos test, print its outcome and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cache_pipeline_tests.chaos")
    parser.add_argument(
        "--seconds", type=float, default=300, help="duration of the faults, without start and final checks"
    )
    parser.add_argument("--seed", type=int, help="seed of the faults and requests (default: random)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    parser.add_argument("--dry", action="store_true", help="print the schedule of faults and exit")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if options.seed is None else options.seed
    faults, console = make_schedule(seed, options.seconds), Console()
    if options.dry:
        for fault in faults:
            console.print(str(fault), highlight=False)
        return 0
    console.print("Servers, stores and accounts of its own; settings in the environment and .env are not used")
    console.print(f"{len(faults)} faults in {options.seconds:.0f} s; repeat them with SEED={seed}", highlight=False)
    if missing := [product for product, names in _PRODUCTS.items() if locate_program(*names) is None]:
        console.print(f"{' and '.join(missing)} must be installed: .ci/run shows how")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=1)

        def report_progress(activity: str, share: float) -> None:
            progress.update(bar, completed=share)
            if activity:
                progress.update(bar, description=activity[:60])
                if not console.is_terminal:
                    console.print(activity, highlight=False)

        # Every child process has a session of its own, so a signal to this process must unwind the run and stop them.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            outcome = asyncio.run(ChaosRun(folder, seed, options.seconds, faults, report_progress).execute())
        except KeyboardInterrupt:
            console.print(f"Interrupted. Logs: {folder}", highlight=False)
            return 130
    _print(outcome, seed, options.seconds, console)
    if outcome.is_clean and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"Logs: {folder}", highlight=False)
    return 0 if outcome.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())

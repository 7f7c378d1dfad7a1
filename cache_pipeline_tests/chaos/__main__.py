"""``python -m cache_pipeline_tests.chaos --seconds 300 --seed 7``: exit code 0 only if nothing was found."""

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
from cache_pipeline_tests.chaos.accounts import KINDS, Books
from cache_pipeline_tests.chaos.run import Run
from cache_pipeline_tests.chaos.schedule import schedule

_TOLD = 10


def _print(books: Books, seed: int, seconds: float, console: Console) -> None:
    counts = Table(title="What happened")
    counts.add_column("what")
    counts.add_column("how often", justify="right")
    for what, times in sorted(books.counts.items()):
        counts.add_row(what, f"{times:,}")
    console.print(counts)
    table = Table(title=f"After {seconds:.0f} s of faults with seed {seed}")
    table.add_column("")
    table.add_column("found", justify="right")
    for kind in KINDS:
        found = books.found[kind]
        table.add_row(kind, f"[{'red' if found else 'green'}]{len(found)}[/]")
    table.add_section()
    table.add_row("requests in the fullest window ÷ the vendor's limit", f"{books.fullest:.2f}")
    table.add_row("jobs that failed, each with its reason", f"{books.failed.total()} of {_jobs(books)}")
    console.print(table)
    for reason, times in books.failed.most_common():
        console.print(f"{times} failed of {reason}", highlight=False, soft_wrap=True)
    for kind in KINDS:
        for what in list(books.found[kind])[:_TOLD]:
            console.print(f"[red]{kind}[/]: {what}", highlight=False, soft_wrap=True)


def _jobs(books: Books) -> int:
    return sum(times for what, times in books.counts.items() if what.startswith("jobs "))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m cache_pipeline_tests.chaos")
    parser.add_argument("--seconds", type=float, default=300, help="of faults; starting and settling come on top")
    parser.add_argument("--seed", type=int, help="of schedule and questions; by default any")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    parser.add_argument("--dry", action="store_true", help="only print the schedule")
    said = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if said.seed is None else said.seed
    strikes, console = schedule(seed, said.seconds), Console()
    if said.dry:
        for strike in strikes:
            console.print(str(strike), highlight=False)
        return 0
    console.print(f"{len(strikes)} strikes in {said.seconds:.0f} s; repeat them with SEED={seed}", highlight=False)
    if not any(map(shutil.which, BROKERS)):
        console.print("RabbitMQ is not installed: .ci/run shows what to install")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=1)

        def tell(what: str, share: float) -> None:
            progress.update(bar, completed=share)
            if what:
                progress.update(bar, description=what[:60])
                if not console.is_terminal:
                    console.print(what, highlight=False)

        # However it is told to end, nothing of it may go on: all that it starts has a session of its own.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            books = asyncio.run(Run(folder, seed, said.seconds, strikes, tell).go())
        except KeyboardInterrupt:
            console.print(f"Stopped before its end. Logs: {folder}", highlight=False)
            return 130
    _print(books, seed, said.seconds, console)
    if books.clean and not said.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"Logs: {folder}", highlight=False)
    return 0 if books.clean else 1


if __name__ == "__main__":
    sys.exit(main())

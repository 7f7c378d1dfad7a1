"""`python -m benchmarks [--only NAME]`: runs the benchmarks, prints their tables and writes `benchmarks/results/`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import click
from rich.console import Console

from benchmarks.result import BenchmarkError, Result, Tell
from benchmarks.table import table_of

_RESULTS = Path(__file__).parent / "results"
_TABLE_WIDTH = 150


# Imported only when it is run: each benchmark has peers of its own, which need not all be installed.
def _backfill(tell: Tell) -> Result:
    from benchmarks.backfill import measure

    return measure(tell)


def _dashboard(tell: Tell) -> Result:
    from benchmarks.dashboard.benchmark import measure

    return measure(tell)


def _details(tell: Tell) -> Result:
    from benchmarks.memory.details import measure

    return measure(tell)


def _details_full(tell: Tell) -> Result:
    from benchmarks.memory.details import measure_full

    return measure_full(tell)


def _edge(tell: Tell) -> Result:
    from benchmarks.edge import measure

    return measure(tell)


def _api(tell: Tell) -> Result:
    from benchmarks.api.benchmark import measure

    return measure(tell)


def _history(tell: Tell) -> Result:
    from benchmarks.history import measure

    return measure(tell)


def _jobs(tell: Tell) -> Result:
    from benchmarks.jobs.benchmark import measure

    return measure(tell)


def _keys(tell: Tell) -> Result:
    from benchmarks.keys.benchmark import measure

    return measure(tell)


def _memory(tell: Tell) -> Result:
    from benchmarks.memory.benchmark import measure

    return measure(tell)


def _polling(tell: Tell) -> Result:
    from benchmarks.polling.benchmark import measure

    return measure(tell)


def _quota(tell: Tell) -> Result:
    from benchmarks.quota.benchmark import measure

    return measure(tell)


def _scale(tell: Tell) -> Result:
    from benchmarks.scale.benchmark import measure

    return measure(tell)


def _stampede(tell: Tell) -> Result:
    from benchmarks.stampede.benchmark import measure

    return measure(tell)


def _trace(tell: Tell) -> Result:
    from benchmarks.trace.benchmark import measure

    return measure(tell)


_BENCHMARKS: Mapping[str, Callable[[Tell], Result]] = MappingProxyType(
    {
        "api": _api,
        "backfill": _backfill,
        "dashboard": _dashboard,
        "details": _details,
        "edge": _edge,
        "history": _history,
        "jobs": _jobs,
        "keys": _keys,
        "memory": _memory,
        "polling": _polling,
        "quota": _quota,
        "scale": _scale,
        "stampede": _stampede,
        "trace": _trace,
    }
)

#: Too long to be run with the others.
_BY_NAME_ONLY: Mapping[str, Callable[[Tell], Result]] = MappingProxyType({"details-full": _details_full})
_ALL = {**_BENCHMARKS, **_BY_NAME_ONLY}


@click.command()
@click.option("--only", metavar="NAME", help=f"Run one benchmark: {', '.join(_ALL)}.")
def main(only: str | None) -> None:
    """Run the benchmarks side by side with their peers; exit code 1 says that a target was missed."""
    if only is not None and only not in _ALL:
        click.echo(f"there is no benchmark {only!r}: choose one of {', '.join(_ALL)}", err=True)
        sys.exit(2)
    reached = [_run(name) for name in ([only] if only else _BENCHMARKS)]
    sys.exit(0 if all(reached) else 1)


def _run(name: str) -> bool:
    # A table cut to the width of a log file's eighty columns cannot be read.
    wide = None if sys.stdout.isatty() else _TABLE_WIDTH
    try:
        with Console(stderr=True).status(name) as status:
            result = _ALL[name](lambda doing: status.update(f"{name}: {doing}"))
    except ModuleNotFoundError as error:
        click.echo(f"{name} needs the package {error.name}: install the dependency group 'bench'", err=True)
        return False
    except BenchmarkError as error:
        click.echo(f"{name}: {error}", err=True)
        return False
    result.write(_RESULTS)
    Console(width=wide).print(table_of(result))
    return not result.missed


if __name__ == "__main__":
    main()

"""Command line `python -m benchmarks [--only NAME]`: run benchmarks, print their tables and write `benchmarks/results/`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import click
from rich.console import Console

from benchmarks.result import BenchmarkError, ProgressCallback, Result
from benchmarks.table import render_table

_RESULTS = Path(__file__).parent / "results"
_TABLE_WIDTH = 150


# Each benchmark is imported only when it runs: its peers need not be installed for the others.
def _abuse(progress: ProgressCallback) -> Result:
    from benchmarks.abuse import measure

    return measure(progress)


def _backfill(progress: ProgressCallback) -> Result:
    from benchmarks.backfill import measure

    return measure(progress)


def _dashboard(progress: ProgressCallback) -> Result:
    from benchmarks.dashboard.benchmark import measure

    return measure(progress)


def _details(progress: ProgressCallback) -> Result:
    from benchmarks.memory.details import measure

    return measure(progress)


def _details_full(progress: ProgressCallback) -> Result:
    from benchmarks.memory.details import measure_full

    return measure_full(progress)


def _edge(progress: ProgressCallback) -> Result:
    from benchmarks.edge import measure

    return measure(progress)


def _api(progress: ProgressCallback) -> Result:
    from benchmarks.api.benchmark import measure

    return measure(progress)


def _history(progress: ProgressCallback) -> Result:
    from benchmarks.history import measure

    return measure(progress)


def _history_size(progress: ProgressCallback) -> Result:
    from benchmarks.history_size import measure

    return measure(progress)


def _history_size_full(progress: ProgressCallback) -> Result:
    from benchmarks.history_size import measure_full

    return measure_full(progress)


def _jobs(progress: ProgressCallback) -> Result:
    from benchmarks.jobs.benchmark import measure

    return measure(progress)


def _keys(progress: ProgressCallback) -> Result:
    from benchmarks.keys.benchmark import measure

    return measure(progress)


def _limits(progress: ProgressCallback) -> Result:
    from benchmarks.limits import measure

    return measure(progress)


def _live(progress: ProgressCallback) -> Result:
    from benchmarks.live import measure

    return measure(progress)


def _memory(progress: ProgressCallback) -> Result:
    from benchmarks.memory.benchmark import measure

    return measure(progress)


def _polling(progress: ProgressCallback) -> Result:
    from benchmarks.polling.benchmark import measure

    return measure(progress)


def _proxy(progress: ProgressCallback) -> Result:
    from benchmarks.proxy.benchmark import measure

    return measure(progress)


def _quota(progress: ProgressCallback) -> Result:
    from benchmarks.quota.benchmark import measure

    return measure(progress)


def _scale(progress: ProgressCallback) -> Result:
    from benchmarks.scale.benchmark import measure

    return measure(progress)


def _sparse(progress: ProgressCallback) -> Result:
    from benchmarks.sparse import measure

    return measure(progress)


def _schema(progress: ProgressCallback) -> Result:
    from benchmarks.schema import measure

    return measure(progress)


def _stampede(progress: ProgressCallback) -> Result:
    from benchmarks.stampede.benchmark import measure

    return measure(progress)


def _startup(progress: ProgressCallback) -> Result:
    from benchmarks.startup import measure

    return measure(progress)


def _time_travel(progress: ProgressCallback) -> Result:
    from benchmarks.time_travel import measure

    return measure(progress)


def _trace(progress: ProgressCallback) -> Result:
    from benchmarks.trace.benchmark import measure

    return measure(progress)


_BENCHMARKS: Mapping[str, Callable[[ProgressCallback], Result]] = MappingProxyType(
    {
        "abuse": _abuse,
        "api": _api,
        "backfill": _backfill,
        "dashboard": _dashboard,
        "details": _details,
        "edge": _edge,
        "history": _history,
        "history-size": _history_size,
        "jobs": _jobs,
        "keys": _keys,
        "limits": _limits,
        "live": _live,
        "memory": _memory,
        "polling": _polling,
        "proxy": _proxy,
        "quota": _quota,
        "scale": _scale,
        "schema": _schema,
        "sparse": _sparse,
        "stampede": _stampede,
        "startup": _startup,
        "time-travel": _time_travel,
        "trace": _trace,
    }
)

#: Too slow to run with the others.
_BY_NAME_ONLY: Mapping[str, Callable[[ProgressCallback], Result]] = MappingProxyType(
    {"details-full": _details_full, "history-size-full": _history_size_full}
)
_ALL = {**_BENCHMARKS, **_BY_NAME_ONLY}


@click.command()
@click.option("--only", metavar="NAME", help=f"Run one benchmark: {', '.join(_ALL)}.")
def main(only: str | None) -> None:
    """Run the benchmarks side by side with their peers. Exit with 1 if a target is missed."""
    if only is not None and only not in _ALL:
        click.echo(f"unknown benchmark {only!r}; expected one of {', '.join(_ALL)}", err=True)
        sys.exit(2)
    click.echo("Servers, stores and accounts of their own; settings in the environment and .env are not used", err=True)
    met = [_run(name) for name in ([only] if only else _BENCHMARKS)]
    sys.exit(0 if all(met) else 1)


def _run(name: str) -> bool:
    # At a log file's eighty columns the table would be unreadable.
    wide = None if sys.stdout.isatty() else _TABLE_WIDTH
    try:
        with Console(stderr=True).status(name) as status:
            result = _ALL[name](lambda activity: status.update(f"{name}: {activity}"))
    except ModuleNotFoundError as error:
        click.echo(f"{name} needs the package {error.name}; install the dependency group 'bench'", err=True)
        return False
    except BenchmarkError as error:
        click.echo(f"{name}: {error}", err=True)
        return False
    result.write(_RESULTS)
    Console(width=wide).print(render_table(result))
    return not result.missed


if __name__ == "__main__":
    main()

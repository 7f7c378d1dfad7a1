"""The command ``cache-pipeline simulator``, and its settings: a file, overridden by the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click
import yaml
from pydantic import ValidationError

from cache_pipeline.errors import CommandError
from cache_pipeline.simulator.server import serve
from cache_pipeline.simulator.settings import SimulatorSettings


@click.command()
@click.option("--port", default=8090, show_default=True, help="Port on 127.0.0.1.")
@click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    help="YAML or JSON file with the settings of docs/simulator.md.",
)
@click.option("--seed", type=int, help="Seed of the random figures.")
@click.option(
    "--arrivals",
    type=click.Path(path_type=Path),
    help="Replay the volumes of a CSV file with the columns start and calls.",
)
@click.option("--arrivals-zone", help="Time zone of that file (default: UTC).")
def simulator(port: int, file: Path | None, seed: int | None, arrivals: Path | None, arrivals_zone: str | None) -> None:
    """Run the simulated vendor. Log in as demo-client with the secret demo-secret, unless the settings name others."""
    settings = simulator_settings(file, {"seed": seed, "arrivals": arrivals, "arrivals_zone": arrivals_zone})

    def announce(url: str) -> None:
        click.echo(f"Simulated vendor on {url} (state: {url}/simulator); Ctrl-C stops it", err=True)

    serve(settings, port, announce=announce)


def simulator_settings(file: Path | None, said: Mapping[str, Any]) -> SimulatorSettings:
    """Return the settings in a YAML or JSON file, overridden by those that are given and not None.

    Raises:
        CommandError: naming the file, or the setting, that cannot be used.
    """
    read = _read(file) if file is not None else {}
    where = f"{file}: " if file is not None else ""
    try:
        return SimulatorSettings(**{**read, **{name: value for name, value in said.items() if value is not None}})
    except ValidationError as error:
        # Without the input: it may be a secret.
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        problems_by_field = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems)
        raise CommandError(f"{where}{'; '.join(problems_by_field)}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        read: object = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise CommandError(f"{file} is neither YAML nor JSON") from None
    if not isinstance(read, dict):
        raise CommandError(f"{file} must hold settings by name, such as queues: 20")
    return cast("dict[str, Any]", read)

"""Settings of ``cache-pipeline simulator``: a file, overridden by the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from cache_pipeline.errors import CommandError
from cache_pipeline.simulator.settings import SimulatorSettings


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

"""Tests of the simulator's settings file: values, precedence, and one line per error."""

from pathlib import Path

import pytest

from cache_pipeline.cli.simulator import simulator_settings
from cache_pipeline.errors import CommandError


def test_command_line_overrides_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "vendor.yaml"
    file.write_text("seed: 5\nqueues: 20\nclients: {mine: hush}\nclient_divisions: {mine: [0]}\n")
    settings = simulator_settings(file, {"seed": 7, "arrivals": None})
    assert (settings.seed, settings.queues) == (7, 20)
    assert settings.clients["mine"].get_secret_value() == "hush"
    assert settings.client_divisions == {"mine": frozenset({0})}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queues: many\n", "queues: Input should be a valid integer"),
        ("colour: red\n", "colour: Extra inputs are not permitted"),
        ("clients: {mine: {secret: hush}}\n", "clients.mine"),
        ("- a list\n", "must hold settings by name"),
        ("{", "neither YAML nor JSON"),
    ],
)
def test_settings_error_names_file_but_no_value(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "vendor.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=message) as raised:
        simulator_settings(file, {})
    assert str(file) in str(raised.value)
    assert "hush" not in str(raised.value)


def test_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        simulator_settings(tmp_path / "none.yaml", {})

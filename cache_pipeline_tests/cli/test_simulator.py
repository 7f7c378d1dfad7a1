"""The simulated vendor as a tool of its own: settings from a file, and one line for each mistake in it."""

from pathlib import Path

import pytest

from cache_pipeline.cli.simulator_options import simulator_settings
from cache_pipeline.errors import CommandError


def test_settings_come_from_a_file_and_the_command_line_goes_over_them(tmp_path: Path) -> None:
    file = tmp_path / "vendor.yaml"
    file.write_text("seed: 5\nqueues: 20\nclients: {mine: hush}\nclient_divisions: {mine: [0]}\n")
    settings = simulator_settings(file, {"seed": 7, "arrivals": None})
    assert (settings.seed, settings.queues) == (7, 20)
    assert settings.clients["mine"].get_secret_value() == "hush"
    assert settings.client_divisions == {"mine": frozenset({0})}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queues: many\n", "queues: Input should be a valid integer"),
        ("colour: red\n", "colour: Extra inputs are not permitted"),
        ("clients: {mine: {secret: hush}}\n", "clients.mine"),
        ("- a list\n", "must hold settings by name"),
        ("{", "neither YAML nor JSON"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_no_value(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "vendor.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=words) as told:
        simulator_settings(file, {})
    assert str(file) in str(told.value)
    assert "hush" not in str(told.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        simulator_settings(tmp_path / "none.yaml", {})

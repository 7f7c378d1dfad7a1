"""Service files that cannot run here are compared with what they name: commands, settings and files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cache_pipeline.cli.init import init
from cache_pipeline.cli.main import cli
from cache_pipeline.settings import Settings
from cache_pipeline_tests.deploy.rules import REPOSITORY
from cache_pipeline_tests.programs import find_program

DEPLOY = REPOSITORY / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_units_are_valid(unit, tmp_path):
    name = unit.name.replace("@.", "@one.")
    # systemd checks that the programs exist, so use those of this environment.
    text = unit.read_text().replace("/srv/cache_pipeline/.venv/bin", str(Path(sys.executable).parent))
    (tmp_path / name).write_text(text)
    completed = subprocess.run(
        [find_program("systemd-analyze"), "verify", "--man=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in completed.stderr.splitlines() if unit.name.split("@")[0] in line]
    assert (completed.returncode, complaints) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_units_are_confined(unit):
    command = [find_program("systemd-analyze"), "security", "--offline=yes", "--threshold=30", "--no-pager", str(unit)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout.splitlines()[-1:]
    lines = unit.read_text().splitlines()
    assert {"UMask=0077", "LimitNOFILE=65536", "Environment=DAGSTER_HOME=/srv/cache_pipeline"} <= set(lines)


def test_compose_names_existing_settings_commands_and_files():
    folder = DEPLOY / "compose"
    text = (folder / "compose.yaml").read_text()
    composed = yaml.safe_load(text)
    prefix, fields = "CACHE_PIPELINE_", {name.upper() for name in Settings.model_fields}
    for service in composed["services"].values():
        for name in service.get("environment", {}):
            if name.startswith(prefix):
                assert name.removeprefix(prefix).split("__")[0] in fields, name
        for other in service.get("depends_on", {}):
            assert "healthcheck" in composed["services"][other]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (folder / source).exists() if source.startswith(".") else source in composed["volumes"]
        # The image itself checks the API, its default command.
        if service["image"] == "cache-pipeline":
            assert "healthcheck" in service or service["command"][1] == "api"
    commands = [service.get("command", [""]) for service in composed["services"].values()]
    ours = [command for command in commands if command[0] == "cache-pipeline"]
    assert {command[1] for command in ours} == {"api", "worker"} <= set(cli.short_helps())
    subprocess.run(
        [find_program("promtool"), "check", "config", "--syntax-only", "prometheus.yml"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    "path",
    [*UNITS, DEPLOY / "compose/compose.yaml", DEPLOY / "helm/values.yaml"],
    ids=lambda path: path.name,
)
def test_untested_files_say_so(path):
    assert "UNTESTED" in path.read_text()


def copied_into_image(dockerfile):
    """Return the paths of the build's context that a Dockerfile copies."""
    lines = re.findall(r"(?m)^COPY (?!--from)(.*)$", dockerfile.read_text())
    return {source for line in lines for source in line.split()[:-1]}


def test_everything_an_image_copies_is_in_its_context(tmp_path):
    assert CliRunner().invoke(init, [str(tmp_path)]).exit_code == 0
    for folder in (REPOSITORY, tmp_path):
        included = {line[1:] for line in (folder / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
        copied = copied_into_image(folder / "deploy/container/Dockerfile")
        assert copied, folder
        for path in copied:
            assert (folder / path).exists(), path
            assert path.split("/")[0] in included, path

"""Tests that the maintainers' files agree with each other and with the project."""

import re
import stat
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CI = (REPOSITORY / ".ci" / "run").read_text()
WORKFLOW = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
STEPS = WORKFLOW["jobs"]["test"]["steps"]


def make_commands(text: str) -> list[str]:
    """Return the make commands of a script, in order."""
    return re.findall(r"^make [a-z]+$", text, re.MULTILINE)


def apt_packages(text: str) -> set[str]:
    """Return the Debian packages that a script installs."""
    found = re.search(r"apt-get install ([^>\n]+)", text)
    assert found
    return {word for word in found.group(1).split() if not word.startswith("-")}


def test_workflow_runs_the_commands_of_ci() -> None:
    commands = "\n".join(step["run"] for step in STEPS if "run" in step)
    assert make_commands(CI) == make_commands(commands)
    assert make_commands(CI)


def test_workflow_installs_the_packages_of_ci() -> None:
    install = next(step["run"] for step in STEPS if "apt-get install" in step.get("run", ""))
    assert apt_packages(install) == apt_packages(CI)


def test_workflow_sets_the_variables_of_ci() -> None:
    exported = dict(re.findall(r"^export (CACHE_PIPELINE_\w+)=(\S+)$", CI, re.MULTILINE))
    assert WORKFLOW["jobs"]["test"]["env"] == exported


def test_workflow_covers_every_supported_python() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    supported = re.findall(r"Python :: (3\.\d+)", project)
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == supported


def test_ci_uses_the_test_command_of_the_readme() -> None:
    assert "make test" in make_commands(CI)
    assert "`make test`" in (REPOSITORY / "README.md").read_text()
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_pre_commit_hooks_are_local() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    check = re.search(r"(?m)^check:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text())
    assert check
    for tool in ("ruff check", "ruff format", "pyright", "lint-imports", "cache_pipeline_tests.security.scan"):
        assert any(tool in entry for entry in entries), tool
        assert tool in check.group(1), tool


def test_readme_stays_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_table_cells_stay_short(page: Path) -> None:
    """A cell holds a sentence or two; longer text belongs in prose."""
    cells = [
        cell.strip()
        for line in page.read_text().splitlines()
        if line.startswith("|")
        for cell in re.split(r"(?<!\\)\|", line)[1:-1]
    ]
    assert [cell for cell in cells if len(cell.split()) > 40] == []


@pytest.mark.parametrize("path", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", ".editorconfig", ".dockerignore"])
def test_maintainer_file_exists(path: str) -> None:
    assert (REPOSITORY / path).read_text().strip()


def test_contributing_names_only_paths_that_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    named = {
        path for path in re.findall(r"`((?:cache_pipeline|docs|benchmarks|\.ci)[\w./-]*)`", text) if "NAME" not in path
    }
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []

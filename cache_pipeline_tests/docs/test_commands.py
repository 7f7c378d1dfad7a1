"""Tests that every command in the documentation exists, with the options and arguments shown."""

import re
import shlex
from pathlib import Path

import click
import pytest

from cache_pipeline.cli.main import cli

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
#: Shell builtins and programs of the system, which are not checked.
SYSTEM_COMMANDS = {
    *(
        "cat",
        "celery",
        "cp",
        "curl",
        "docker",
        "export",
        "helm",
        "kubectl",
        "mkdir",
        "pg_dump",
        "pip",
        "psql",
        "python",
        "set",
        "source",
    ),
}


def shell_blocks(page):
    return [
        re.sub(r"(?m)^ +", "", block) if block.startswith(" ") else block
        for block in re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", page.read_text())
    ]


def commands_of(block):
    """Return the commands of a block, with continued lines joined and without comments and here-documents."""
    line = ""
    for part in re.sub(r"(?ms)<<'(\w+)'\n.*?^\1$", "", block.replace("\\\n", " ")).splitlines():
        line = f"{line} {part}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quoted string continues in the next line
        line = ""
        if words:
            yield words
    assert not line, line


def without_assignments(words):
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def make_targets():
    return set(re.findall(r"(?m)^([a-z-]+):", (REPOSITORY / "Makefile").read_text()))


def dagster_commands():
    import dagster._cli
    import dagster._daemon.cli
    import dagster_webserver.cli

    return {
        "dagster": dagster._cli.create_dagster_cli(),
        "dagster-daemon": dagster._daemon.cli.create_dagster_daemon_cli(),
        "dagster-webserver": dagster_webserver.cli.dagster_webserver,
    }


def parse(program, words, command):
    """Parse a command as the program would, down to the last subcommand, without running it."""
    context = command.make_context(program, list(words))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context


def check_command(words):
    words = without_assignments(words)
    if not words or words[0] in SYSTEM_COMMANDS or words[0].startswith("$"):
        return
    program, *rest = words
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        assert set(targets) <= make_targets(), targets
    elif program == "cache-pipeline":
        context = parse(program, rest, cli)
        if context.command.name == "with-servers":
            check_command(list(context.params["command"]))
    elif program == "dg":
        assert rest[:1] in (["check"], ["list"], ["scaffold"], ["launch"]), rest
    else:
        parse(program, rest, dagster_commands()[program])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_of_a_page_exist(page):
    for words in (words for block in shell_blocks(page) for words in commands_of(block)):
        try:
            check_command(words)
        except (click.ClickException, KeyError) as error:
            pytest.fail(f"{shlex.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "cache-pipeline no-such-command",
        "cache-pipeline query --no-such-option",
        "make no-such-target",
        "no-such-program",
    ],
)
def test_wrong_command_is_detected(line):
    with pytest.raises((click.ClickException, KeyError, AssertionError)):
        check_command(shlex.split(line))


def test_commands_are_in_sh_blocks():
    for page in PAGES:
        indented = re.findall(r"(?m)\n\n {4}(?:cache-pipeline|make|dagster|dg|celery) .*", page.read_text())
        assert indented == [], page

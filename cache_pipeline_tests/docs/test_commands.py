"""Every command that the documentation tells people to type exists, with the options and arguments shown."""

import re
import shlex
from pathlib import Path

import click
import pytest

from cache_pipeline.cli.main import cli

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
#: What a machine has, or a shell knows: nothing of it is ours to promise.
ANYBODYS = {"cat", "celery", "curl", "export", "pip", "set", "source"}


def blocks(page):
    return [
        re.sub(r"(?m)^ +", "", block) if block.startswith(" ") else block
        for block in re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", page.read_text())
    ]


def typed(block):
    """The commands of a block: continued lines joined, comments and what is fed to a command left out."""
    line = ""
    for part in re.sub(r"(?ms)<<'(\w+)'\n.*?^\1$", "", block.replace("\\\n", " ")).splitlines():
        line = f"{line} {part}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quotation goes on in the next line
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


def understood(program, words, command):
    """Parse as the program would, down to the last subcommand; nothing is run."""
    context = command.make_context(program, list(words))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context


def check(words):
    words = without_assignments(words)
    if not words or words[0] in ANYBODYS or words[0].startswith("$"):
        return
    program, *rest = words
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        assert set(targets) <= make_targets(), targets
    elif program == "cache-pipeline":
        context = understood(program, rest, cli)
        if context.command.name == "with-servers":
            check(list(context.params["command"]))
    elif program == "dg":
        assert rest[:1] in (["check"], ["list"], ["scaffold"], ["launch"]), rest
    else:
        understood(program, rest, dagster_commands()[program])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_command_of_a_page_is_one_that_can_be_typed(page):
    for words in (words for block in blocks(page) for words in typed(block)):
        try:
            check(words)
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
def test_a_command_that_cannot_be_typed_is_found(line):
    with pytest.raises((click.ClickException, KeyError, AssertionError)):
        check(shlex.split(line))


def test_commands_stand_in_blocks_that_are_checked():
    for page in PAGES:
        indented = re.findall(r"(?m)\n\n {4}(?:cache-pipeline|make|dagster|dg|celery) .*", page.read_text())
        assert indented == [], page

"""``cache-pipeline``: every command, and the one place where an error becomes a line and an exit code.

A command's module is imported when the command runs: all of them together take seconds.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import NoReturn

import click

#: Where each command is, and the first sentence of its help, which a test compares with the command's own.
_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "api": ("serve:api", "Serve the HTTP API."),
        "demo": (
            "demo_commands:demo",
            "Backfill the reports on embedded servers and a simulated vendor, and compare the tiers.",
        ),
        "dev": ("demo_commands:dev", "Run the demo, then serve the Dagster UI and the HTTP API until Ctrl-C."),
        "doctor": ("doctor:doctor", "Check settings, servers, logins and stores."),
        "edge": ("edge:edge", "Manage the published data sets and the executives' page."),
        "export": ("export:export", "Export history of REPORTS to a warehouse, as far as it has changed."),
        "forget": ("forget:forget_command", "Forget a person in every store, and print a receipt."),
        "init": ("init:init", "Create a project in DIR, a new or empty folder."),
        "keys": ("keys:keys", "Manage the keys of the HTTP API."),
        "migrate": ("reports:migrate", "Create or update the PostgreSQL tables of the declared reports."),
        "plan": ("query:plan_command", "Show how REPORT over INTERVAL would be answered, and why."),
        "query": (
            "query:query_command",
            "Print REPORT over INTERVAL (start/end or start/P1D; times without an offset are in the report's time zone).",
        ),
        "quota": ("quota:quota", "Show the state of each OAuth client and how many requests each lane may send now."),
        "reports": ("reports:reports", "Check all report declarations and list the reports."),
        "series": (
            "series:series",
            "List the series of history, those of earlier declarations included, and drop them.",
        ),
        "simulator": ("simulator:simulator", "Run the simulated vendor."),
        "status": (
            "status:status",
            "Show the stored days of every report, open queries and jobs, and quota; or the calendar of one REPORT.",
        ),
        "with-servers": (
            "with_servers:with_servers",
            "Run COMMAND with an embedded PostgreSQL and Valkey, unless their URLs are set.",
        ),
        "worker": ("serve:worker", "Run jobs of the HTTP API."),
    }
)


class LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        return getattr(import_module(f"cache_pipeline.cli.{module}"), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.short_helps().items()))

    def short_helps(self) -> dict[str, str]:
        """Return the first sentence of each command's help by name."""
        return {name: text for name, (_, text) in _COMMANDS.items()}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cache-pipeline")
def cli() -> None:
    """Ask a contact centre's Analytics API once, and serve everyone else from the store."""


def main() -> None:
    """Run the command line. Bad input gives one line for each mistake and exit code 2, Ctrl-C gives exit code 130."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        click.echo(f"cache-pipeline: {error.format_message()}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("cache-pipeline: interrupted; everything it started has been stopped", err=True)
        sys.exit(130)
    except Exception as error:
        known = _known_error(error)
        if known is None:
            raise
        _fail(known)


def _known_error(error: Exception) -> Exception | None:
    """Return an error whose message is written for users, or None for a bug."""
    from cache_pipeline.errors import CachePipelineError

    if isinstance(error, CachePipelineError):
        return error
    from cache_pipeline.embedded import EmbeddedServerError
    from cache_pipeline.simulator.errors import SimulatorError
    from cache_pipeline.storage.known_errors import known_error

    return error if isinstance(error, EmbeddedServerError | SimulatorError) else known_error(error)


def _fail(error: Exception) -> NoReturn:
    from cache_pipeline.errors import CachePipelineError

    lines = error.lines if isinstance(error, CachePipelineError) else (" ".join(str(error).split()),)
    for line in lines:
        click.echo(f"cache-pipeline: {line}", err=True)
    sys.exit(2)

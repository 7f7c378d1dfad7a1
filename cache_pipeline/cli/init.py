"""The command ``cache-pipeline init``: a new project with one report, for Dagster, the demo and deployment."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from cache_pipeline.cli.project_files import project_files_folder
from cache_pipeline.errors import CommandError

_TEMPLATE = Path(__file__).parent / "new_project"
#: A file that git or a package would treat specially has another name in the package.
_NAMES = {"gitignore": ".gitignore", "dockerignore": ".dockerignore", "env.example": ".env.example"}
_SHARED = ("dagster.yaml", "deploy")
#: The image of this repository; a project builds its own, from the template.
_OWN_IMAGE = Path("deploy", "container")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path) -> None:
    """Create a project in DIR, a new or empty folder."""
    if folder.exists() and any(folder.iterdir()):
        raise CommandError(f"{folder} is not empty: name a new folder")
    try:
        for source, target in _files():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / target)
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be written: {error.strerror}") from error
    click.echo(f"{folder} is a project with one report, reports/queue_day.yaml. Next:")
    click.echo(f"  cd {folder}")
    click.echo("  cache-pipeline demo        # four weeks on embedded servers and a simulated vendor (extra: embedded)")
    click.echo("  cache-pipeline dev         # the same, with the Dagster UI, the HTTP API and the executives' page")
    click.echo("README.md there says how to use your own account.")


def _files() -> Iterator[tuple[Path, Path]]:
    """Yield each file of a new project, and its path there."""
    for source in _below(_TEMPLATE):
        path = source.relative_to(_TEMPLATE)
        yield source, path.with_name(_NAMES.get(path.name, path.name))
    shared = project_files_folder()
    for name in _SHARED:
        for source in _below(shared / name):
            path = source.relative_to(shared)
            if path.parent != _OWN_IMAGE:
                yield source, path


def _below(path: Path) -> Iterator[Path]:
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return (each for each in found if each.is_file() and "__pycache__" not in each.parts)

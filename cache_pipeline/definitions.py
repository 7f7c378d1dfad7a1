"""Dagster's entry point: ``dagster dev``, ``dg`` and ``workspace.yaml`` load ``defs`` from here."""

import gc
import os
from pathlib import Path

import dagster as dg

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.dagster_compat import write_events_in_batches

_PACKAGE = Path(__file__).parent


def _scaffolded_definitions() -> dg.Definitions:
    """Return what ``dg scaffold defs`` has added under ``cache_pipeline/defs``; an installed package has nothing there."""
    # Reading the folder costs a fifth of the time that all of this takes to load.
    added = [path for path in (_PACKAGE / "defs").iterdir() if path.name not in ("__init__.py", "__pycache__")]
    if not added or not (_PACKAGE.parent / "pyproject.toml").exists():
        return dg.Definitions()
    return dg.load_from_defs_folder(path_within_project=_PACKAGE)


write_events_in_batches(os.environ)
defs = dg.Definitions.merge(build_defs(), _scaffolded_definitions())
# The definitions live as long as the process, so the garbage collector need not scan them.
gc.freeze()

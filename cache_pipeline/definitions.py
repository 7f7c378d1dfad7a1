"""Dagster's entry point: ``dagster dev``, ``dg`` and ``workspace.yaml`` load ``defs`` from here."""

import gc
import os

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.dagster_compat import write_events_in_batches

write_events_in_batches(os.environ)
defs = build_defs()
# The definitions live as long as the process, so the garbage collector need not scan them.
gc.freeze()

"""What Dagster loads: ``dagster dev``, ``dg`` and ``workspace.yaml`` all point here."""

import gc

from cache_pipeline.orchestration.build import build_defs

defs = build_defs()
# They stay as long as the process: no collection of garbage shall ever look through them.
gc.freeze()

"""What Dagster loads: ``dagster dev``, ``dg`` and ``workspace.yaml`` all point here."""

import gc
import os

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.dagster_compat import write_events_in_batches

write_events_in_batches(os.environ)
defs = build_defs()
# They stay as long as the process: no collection of garbage shall ever look through them.
gc.freeze()

"""What Dagster loads: ``dagster dev``, ``dg`` and ``workspace.yaml`` all point here."""

from cache_pipeline.orchestration.build import build_defs

defs = build_defs()

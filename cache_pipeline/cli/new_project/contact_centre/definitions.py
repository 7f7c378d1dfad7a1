"""Dagster's entry point: the reports declared in reports/, and what is added under defs/."""

from pathlib import Path

import dagster as dg

from cache_pipeline import definitions as reports

defs = dg.Definitions.merge(reports.defs, dg.load_from_defs_folder(path_within_project=Path(__file__).parent))

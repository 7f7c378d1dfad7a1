"""The declared reports for ``dg``: a component that loads a folder of them, and a scaffold that writes a new one.

A project of your own takes the whole pipeline in with four lines of ``defs.yaml``; in this one
``dg scaffold defs cache_pipeline.orchestration.component.DeclaredReport NAME`` writes ``reports/NAME.yaml``.

See https://docs.dagster.io/guides/build/components
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg

from cache_pipeline.bootstrap import review_declaration
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.query.declarations import read_report, read_reports
from cache_pipeline.settings import read_settings

_DECLARATION = """\
# yaml-language-server: $schema=report.schema.json
name: {name}
description: {description}
platform: {platform}
query_type: {query_type}
granularity: PT1H
time_zone: {time_zone}
group_by: [queueId]
metrics: {metrics}
volume_metric: {volume_metric}
partition: day
start: {start}
fetch:
  # Groups in a busy hour. Without this number, the completeness of the first answers cannot be verified.
  expected_groups: 8
owners: []
"""
_QUESTIONS = {
    "reportdata": {"query_type": "queue-performance", "metrics": "[offered, answered]", "volume_metric": "offered"},
    "genesys": {"query_type": "conversations", "metrics": "[nOffered, tHandle]", "volume_metric": "nOffered"},
}


class ReportFolder(dg.Component, dg.Model, dg.Resolvable):
    """Assets, checks, jobs, schedules and sensors of every report that a folder declares.

    Attributes:
        folder: of ``*.yaml`` declarations, by default that of CACHE_PIPELINE_REPORTS_DIR; a relative one begins beside
            ``defs.yaml``.
    """

    folder: str | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The same assembly that this project's own front door loads."""
        folder = context.path / self.folder if self.folder else read_settings().reports_dir
        return build_defs(reports=read_reports(folder, review_declaration))


class NewReport(dg.Model):
    """What a new declaration begins with.

    Attributes:
        description: what the figures are, in a sentence.
        platform: the vendor's API that is asked.
        time_zone: IANA zone of the report's days.
        start: first day, YYYY-MM-DD.
    """

    description: str = "Say in a sentence what the figures are"
    platform: str = "reportdata"
    time_zone: str = "UTC"
    start: str = "2026-01-01"


class ReportScaffolder(dg.Scaffolder[NewReport]):
    """Writes a declaration that loads as it stands, to be filled in."""

    @classmethod
    def get_scaffold_params(cls) -> type[NewReport]:
        """Its options."""
        return NewReport

    def scaffold(self, request: dg.ScaffoldRequest[NewReport]) -> None:
        """Write ``NAME.yaml`` into the reports' folder; nothing is written where it would not load.

        Raises:
            FileExistsError: the report is declared already.
            DeclarationError: by field, what is wrong with the name or an option.
        """
        # A report is declared beside the others, not in a package: the folder that dg has made for it goes.
        with suppress(OSError):
            request.target_path.rmdir()
        name, given = request.target_path.name, request.params
        folder = (request.project_root or Path()) / read_settings().reports_dir
        path = folder / f"{name}.yaml"
        if path.exists():
            raise FileExistsError(f"{path} is there already: choose another name, or edit it")
        question: dict[str, Any] = _QUESTIONS.get(given.platform, _QUESTIONS["reportdata"])
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(_DECLARATION.format(name=name, **given.model_dump(), **question), encoding="utf-8")
        try:
            read_report(partial, review_declaration)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)


@dg.scaffold_with(ReportScaffolder)
class DeclaredReport:
    """One report in the folder of declarations; it needs no Python."""

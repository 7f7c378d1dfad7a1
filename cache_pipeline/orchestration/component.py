"""Integration with ``dg``: components that load folders of declared reports, and a scaffolder for new ones.

Another Dagster project includes a folder of reports with four lines of ``defs.yaml``, as often as it has folders, and once
for the whole deployment the sensors and jobs that look after all of them. In this project
``dg scaffold defs cache_pipeline.orchestration.component.DeclaredReport NAME`` writes ``reports/NAME.yaml``.

See https://docs.dagster.io/guides/build/components
"""

from contextlib import suppress
from pathlib import Path

import dagster as dg

from cache_pipeline.bootstrap.reports import Declarations, load_declarations
from cache_pipeline.orchestration.build import build_folder_defs, build_upkeep_defs
from cache_pipeline.query.declarations import Declaration, DeclarationError, Mistake
from cache_pipeline.query.report import Report
from cache_pipeline.settings import read_settings
from cache_pipeline.vendors.registry import find_vendor

_TEMPLATE = """\
# yaml-language-server: $schema=report.schema.json
name: {name}
description: {description}
platform: {platform}
query_type: {query_type}
granularity: PT1H
time_zone: {time_zone}
group_by: {group_by}
metrics: {metrics}
volume_metric: {volume_metric}
partition: day
start: {start}
fetch:
  # Groups in a busy hour. Without this number, the completeness of the first answers cannot be verified.
  expected_groups: 8
owners: []
"""


class ReportFolder(dg.Component, dg.Model, dg.Resolvable):
    """Loads assets, checks, jobs, schedules and sensors of every report that a folder declares.

    Attributes:
        folder: Folder of ``*.yaml`` declarations, relative to ``defs.yaml``; by default that of
            CACHE_PIPELINE_REPORTS_DIR.
    """

    folder: str | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the definitions of the folder's reports, without an executor and without what a deployment has once."""
        declarations = _read_folder(context, self.folder)
        reports = {name: each.report for name, each in declarations.items()}
        return build_folder_defs(reports, declarations=declarations)


class ReportUpkeep(dg.Component, dg.Model, dg.Resolvable):
    """Loads what a deployment has once for all its reports: retries, prefetching, open partitions, estimates, edge upkeep.

    Attributes:
        folders: The folders of all ``ReportFolder`` components, relative to ``defs.yaml``; by default that of
            CACHE_PIPELINE_REPORTS_DIR.
    """

    folders: list[str] | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the definitions of the deployment.

        Raises:
            DeclarationError: A declaration is invalid, or two folders declare a report of the same name.
        """
        reports: dict[str, Report] = {}
        for folder in self.folders or [None]:
            found = {name: each.report for name, each in _read_folder(context, folder).items()}
            if repeated := sorted(reports.keys() & found.keys()):
                problem = f"{', '.join(repeated)}: another folder declares a report of this name"
                raise DeclarationError([Mistake(context.path / (folder or ""), 0, "name", problem)])
            reports |= found
        return build_upkeep_defs(reports)


def _read_folder(context: dg.ComponentLoadContext, folder: str | None) -> dict[str, Declaration]:
    return load_declarations(read_settings(), context.path / folder if folder else None)


class NewReport(dg.Model):
    """Options of the scaffolder: the fields of a new declaration.

    Attributes:
        platform: The vendor's API.
        description: What the figures are, in a sentence.
        time_zone: IANA time zone of the report's days.
        start: First day, YYYY-MM-DD.
    """

    platform: str
    description: str = "Describe the figures in a sentence"
    time_zone: str = "UTC"
    start: str = "2026-01-01"


class ReportScaffolder(dg.Scaffolder[NewReport]):
    """Writes a valid declaration to edit."""

    @classmethod
    def get_scaffold_params(cls) -> type[NewReport]:
        """Return the model of the options."""
        return NewReport

    def scaffold(self, request: dg.ScaffoldRequest[NewReport]) -> None:
        """Write ``NAME.yaml`` into the reports' folder, unless the declaration would be invalid.

        Raises:
            FileExistsError: The report is declared already.
            DeclarationError: The name or an option is invalid.
            SettingsError: The vendor is unknown.
        """
        # dg creates a folder for the new definition; a report needs none, as it is declared beside the others.
        with suppress(OSError):
            request.target_path.rmdir()
        name, options = request.target_path.name, request.params
        folder = (request.project_root or Path()) / read_settings().reports_dir
        path = folder / f"{name}.yaml"
        if path.exists():
            raise FileExistsError(f"{path} exists already: choose another name, or edit it")
        vendor = find_vendor(options.platform)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(_TEMPLATE.format(name=name, **options.model_dump(), **vendor.example), encoding="utf-8")
        try:
            Declarations().read(partial)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)


@dg.scaffold_with(ReportScaffolder)
class DeclaredReport:
    """One report in the folder of declarations; declaring it takes no Python."""

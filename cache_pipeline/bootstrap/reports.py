"""The declared reports, by the rules of their vendors and with the accounts of the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from cache_pipeline.query.declarations import (
    Declaration,
    DeclarationError,
    LiveDeclaration,
    LiveRules,
    Mistake,
    read_declarations,
    read_report,
)
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.measure_columns import find_measure_problems
from cache_pipeline.query.partition_days import PartitionDays
from cache_pipeline.query.publication import find_publication_problems
from cache_pipeline.query.report import Report
from cache_pipeline.query.report_schema import report_json_schema_text
from cache_pipeline.query.schema import Column, ColumnKind, find_invalid_names
from cache_pipeline.settings import ACCOUNT_NAME, Settings
from cache_pipeline.vendors.declaration_rules import (
    find_live_problems,
    find_vendor_problems,
    use_row_keys,
    use_vendor_measures,
)
from cache_pipeline.vendors.registry import find_vendor, has_vendor, live_query_types, vendor_names

AnyReport = TypeVar("AnyReport", Report, LiveReport)


class Declarations:
    """Reads declarations of reports by the rules of their vendors and with the accounts of the settings.

    Args:
        settings: The settings; None reads declarations as if no account were set.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._accounts = {} if settings is None else {name: list(each) for name, each in settings.accounts.items()}
        self._first_day = None if settings is None else settings.partitions_from

    def read(self, path: Path) -> Report:
        """Read one declaration.

        Raises:
            DeclarationError: It is invalid; the error lists every mistake.
        """
        return read_report(path, self.find_problems, self.complete)

    def read_folder(self, folder: Path) -> dict[str, Declaration]:
        """Read every declaration in a folder.

        Raises:
            DeclarationError: Some are invalid; the error lists every mistake.
        """
        return self.read_all(folder)[0]

    def read_all(self, folder: Path) -> tuple[dict[str, Declaration], dict[str, LiveDeclaration]]:
        """Read every declaration in a folder, and return the reports and the live reports.

        Raises:
            DeclarationError: Some are invalid; the error lists every mistake.
        """
        rules = LiveRules(live_query_types(), self._name_account, self.find_live_problems)
        declared, live = read_declarations(folder, self.find_problems, self.complete, rules)
        mistakes = [
            Mistake(each.file, each.line, field, problem)
            for each in live.values()
            for field, problem in _find_service_level_problems(each.report, declared)
        ] + [
            Mistake(each.file, each.line, "live", problem)
            for each in declared.values()
            for problem in _find_live_part_problems(each.report, live)
        ]
        if mistakes:
            raise DeclarationError(mistakes)
        return declared, live

    def complete(self, report: Report) -> Report:
        """Return a report with what it leaves out.

        That is its account, if its vendor has only one, the key of its rows, and the vendor's measures. It begins no later than the
        deployment's partitions do, so that past volumes that are replayed can be asked for.
        """
        completed = use_vendor_measures(self._name_account(use_row_keys(report)))
        if self._first_day is None or self._first_day >= completed.start:
            return completed
        return completed.model_copy(update={"start": self._first_day})

    def _name_account(self, report: AnyReport) -> AnyReport:
        accounts = self._accounts.get(report.platform, [])
        if report.account is None and len(accounts) == 1:
            return report.model_copy(update={"account": accounts[0]})
        return report

    def find_live_problems(self, report: LiveReport) -> Iterator[tuple[str, str]]:
        """Yield the problems of a live report that only its vendor and the settings show, as (field, problem)."""
        if problem := _find_platform_problem(report):
            yield problem
            return
        yield from self._find_account_problem(report)
        yield from find_live_problems(report)

    def find_problems(self, report: Report) -> Iterator[tuple[str, str]]:
        """Yield the problems of a declaration that only its vendor and the settings show, as (field, problem)."""
        if problem := _find_platform_problem(report):
            yield problem
            return
        yield from self._find_account_problem(report)
        problems = list(find_vendor_problems(report))
        yield from problems
        if not problems:
            columns = report_columns(report)
            for column, problem in find_invalid_names(columns):
                yield "group_by" if column.kind is ColumnKind.dimension else "metrics", problem
            yield from find_publication_problems(report, columns)
            yield from find_measure_problems(report.measures, columns)

    def _find_account_problem(self, report: Report | LiveReport) -> Iterator[tuple[str, str]]:
        accounts = self._accounts.get(report.platform, [])
        if report.account is None and len(accounts) > 1:
            yield (
                "account",
                f"is missing, and {report.platform} has several accounts: name one of {', '.join(accounts)}",
            )
        elif report.account is not None and not ACCOUNT_NAME.fullmatch(report.account):
            yield "account", f"{report.account[:80]!r} is not a name of an account, such as main"
        elif report.account is not None and accounts and report.account not in accounts:
            yield (
                "account",
                f"unknown account {report.account!r} of {report.platform}; expected one of {', '.join(accounts)}, or set "
                f"{report.account_setting()}",
            )


def _find_platform_problem(report: Report | LiveReport) -> tuple[str, str] | None:
    if has_vendor(report.platform):
        return None
    return "platform", f"unknown platform {report.platform!r}; expected one of {', '.join(vendor_names())}"


def _find_service_level_problems(live: LiveReport, declared: Mapping[str, Declaration]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the report from which a live report takes the day's service level."""
    if (source := live.service_level) is None:
        return
    if source.report not in declared:
        yield "service_level.report", f"there is no report {source.report!r}; declared reports: {', '.join(declared)}"
        return
    report = declared[source.report].report
    if lacking := [dimension for dimension in live.group_by if dimension not in report.group_by]:
        yield "service_level.report", f"{report.name} is not by {', '.join(lacking)}, as {live.name} is"
        return
    shares = [name for name, measure in report.measures.items() if measure is not None and measure.kind == "share"]
    if source.measure not in shares:
        yield (
            "service_level.measure",
            f"{report.name} has no measure {source.measure!r} that is a share; it has {', '.join(shares) or 'none'}",
        )


def _find_live_part_problems(report: Report, live_reports: Mapping[str, LiveDeclaration]) -> Iterator[str]:
    """Yield what is wrong with the live report whose figures a report wants beside its own."""
    if report.live is None:
        return
    # Imported here: most declarations have none, and what it needs takes long to import.
    from cache_pipeline.query.live_part import find_live_part_problems

    found = live_reports[report.live].report if report.live in live_reports else None
    columns = find_vendor(found.platform).live[found.query_type].columns(found) if found else ()
    yield from find_live_part_problems(report, report_columns(report), found, columns)


def report_schema_text() -> str:
    """Return the JSON Schema of a report declaration, for editors."""
    return report_json_schema_text(
        vendor_names(), sorted({kind for name in vendor_names() for kind in find_vendor(name).rows}), live_query_types()
    )


def load_reports(settings: Settings, folder: Path | None = None) -> dict[str, Report]:
    """Read the declarations in a folder, by default the settings' own, and check them against their vendors.

    Raises:
        DeclarationError: Some are invalid; the error lists every mistake.
    """
    return {name: each.report for name, each in load_declarations(settings, folder).items()}


def load_all_reports(settings: Settings) -> tuple[dict[str, Report], dict[str, LiveReport]]:
    """Read the declarations in the settings' folder once, and return the reports and the live reports by name.

    Raises:
        DeclarationError: As ``load_reports``.
    """
    declared, live = Declarations(settings).read_all(settings.reports_dir)
    return {name: each.report for name, each in declared.items()}, {name: each.report for name, each in live.items()}


def load_declarations(settings: Settings, folder: Path | None = None) -> dict[str, Declaration]:
    """Read the same, with the place of each declaration.

    Raises:
        DeclarationError: As ``load_reports``.
    """
    return Declarations(settings).read_folder(folder or settings.reports_dir)


def configured_days(settings: Settings) -> PartitionDays:
    """Return the days of the deployment's partitions."""
    return PartitionDays(settings.partitions_from, settings.partitions_to)


def report_columns(report: Report) -> tuple[Column, ...]:
    """Return the columns of a report's answers; this needs no vendor account."""
    return find_vendor(report.platform).adapter.columns(report)


def refetch_window(report: Report) -> timedelta | None:
    """Return the declared refetch window or, without one, the vendor's: at least one partition. None means never.

    A declaration of `refetch_window: null` switches it off.
    """
    if "refetch_window" in report.fetch.model_fields_set:
        return report.fetch.refetch_window
    window = find_vendor(report.platform).refetch_window
    return max(window, report.partition.step.nominal_length) if window else None

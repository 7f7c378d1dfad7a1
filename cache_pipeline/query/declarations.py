"""Reads ``reports/*.yaml`` and names every mistake by file, line and field before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cache_pipeline.errors import QueryError, UnknownReport
from cache_pipeline.query.report import Report

Location = tuple[str | int, ...]

# libyaml where it was built in: a thousand declarations take seconds without it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Mistake:
    """One mistake in a declaration, for a person to mend.

    Attributes:
        file: the declaration's path.
        line: 1-based, 0 when the whole file is meant.
        field: dotted path of the field, empty when the whole file is meant.
        problem: what is wrong with it.
    """

    file: Path
    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.field}: {self.problem}" if self.field else f"{place}: {self.problem}"


class DeclarationError(QueryError):
    """Declarations that cannot be used; carries every mistake found."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(str(mistake) for mistake in self.mistakes))


#: Says what is wrong with a declaration beyond its own form, as (field, problem) pairs; the platforms know.
Review = Callable[[Report], Iterable[tuple[str, str]]]


def _no_review(_report: Report) -> Iterable[tuple[str, str]]:
    return ()


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None and node.start_mark else 0


def _line_of(node: yaml.Node | None, location: Location) -> int:
    """The line of the deepest part of ``location`` that the file has."""
    line = _line(node)
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                return line
            line, node = _line(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = _line(node)
        else:
            return line
    return line


def _problem(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"is no field here; a report has {', '.join(Report.model_fields)}"
    if error["type"] == "missing":
        return "is missing"
    return error["msg"].removeprefix("Value error, ")


def read_report(path: Path, review: Review = _no_review) -> Report:
    """Read one declaration.

    Raises:
        DeclarationError: with every mistake of the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DeclarationError([Mistake(path, 0, "", f"cannot be read: {reason}")]) from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise DeclarationError([Mistake(path, line, "", f"is not YAML: {error.problem}")]) from error
    except yaml.YAMLError as error:
        raise DeclarationError([Mistake(path, 0, "", f"is not YAML: {error}")]) from error
    if not isinstance(data, dict):
        raise DeclarationError([Mistake(path, 1, "", "must be a mapping of fields, as in `report: queue_hour`")])
    try:
        report = Report.model_validate(data)
    except ValidationError as error:
        raise DeclarationError(
            Mistake(path, _line_of(node, part["loc"]), ".".join(map(str, part["loc"])), _problem(part))
            for part in error.errors(include_url=False, include_context=False)
        ) from error
    problems = [Mistake(path, _line_of(node, (field,)), field, problem) for field, problem in review(report)]
    if problems:
        raise DeclarationError(problems)
    return report


def read_reports(folder: Path, review: Review = _no_review) -> dict[str, Report]:
    """Read every declaration of a folder, by report name in order of name.

    Raises:
        DeclarationError: with the mistakes of all files, an absent or empty folder, or a name declared twice.
    """
    paths = sorted({*folder.glob("*.yaml"), *folder.glob("*.yml")})
    if not paths:
        raise DeclarationError([Mistake(folder, 0, "", "holds no report declarations (*.yaml)")])
    reports: dict[str, Report] = {}
    declared_in: dict[str, Path] = {}
    mistakes: list[Mistake] = []
    for path in paths:
        try:
            report = read_report(path, review)
        except DeclarationError as error:
            mistakes.extend(error.mistakes)
            continue
        if report.report in reports:
            first = declared_in[report.report]
            mistakes.append(Mistake(path, 1, "report", f"{report.report!r} is declared already in {first}"))
        reports[report.report] = report
        declared_in[report.report] = path
    if mistakes:
        raise DeclarationError(mistakes)
    return dict(sorted(reports.items()))


def find_report(reports: dict[str, Report], name: str) -> Report:
    """The report of that name.

    Raises:
        UnknownReport: naming those there are.
    """
    if name not in reports:
        raise UnknownReport(f"there is no report {name!r}: declared are {', '.join(reports)}")
    return reports[name]

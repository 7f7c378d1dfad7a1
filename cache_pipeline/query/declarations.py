"""Read report declarations (``reports/*.yaml``) and report every mistake by file, line and field before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cache_pipeline.errors import QueryError, UnknownReport
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report

Location = tuple[str | int, ...]
_AnyReport = TypeVar("_AnyReport", bound=Report | LiveReport)

# Use libyaml where available: without it, a thousand declarations take seconds.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
#: Values in one file. Aliases within aliases would make millions of a few lines.
_MAX_VALUES = 100_000
#: YAML 1.1 also reads 1:30 as 90 and 010 as 8.
_DECIMAL_INT = re.compile("[-+]?(0|[1-9][0-9]*)")
_PLAIN_TAGS = frozenset(f"{_TAG}{name}" for name in ("null", "bool", "int", "float"))
#: Texts as far as declarations are concerned; whether a text is a date is for the field to say. `=` and `<<` are texts too.
_TEXT_TAGS = frozenset(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))


@dataclass(frozen=True)
class Mistake:
    """One mistake in a declaration.

    Attributes:
        file: The declaration's path.
        line: The 1-based line, or 0 if the mistake concerns the whole file.
        field: The dotted path of the field (``fetch.max_query_interval``), or empty for the whole file.
        problem: What is wrong.
    """

    file: Path
    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.field}: {self.problem}" if self.field else f"{place}: {self.problem}"


class DeclarationError(QueryError):
    """Report declarations are invalid. The error carries every mistake found."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(str(mistake) for mistake in self.mistakes))

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each mistake."""
        return tuple(" ".join(str(mistake).split()) for mistake in self.mistakes)


@dataclass(frozen=True)
class Declaration:
    """A report and where it is declared.

    Attributes:
        report: The report.
        file: The declaration's path.
        line: The 1-based line of its name.
    """

    report: Report
    file: Path
    line: int


#: Fills in what a declaration may leave to the settings and to the vendor's rules.
Complete = Callable[[Report], Report]
#: Yields what is wrong with a well-formed declaration as (dotted field, problem) pairs, by the vendor's rules.
Review = Callable[[Report], Iterable[tuple[str, str]]]


@dataclass(frozen=True)
class LiveDeclaration:
    """A live report and where it is declared.

    Attributes:
        report: The live report.
        file: The declaration's path.
        line: The 1-based line of its name.
    """

    report: LiveReport
    file: Path
    line: int


@dataclass(frozen=True)
class LiveRules:
    """Which declarations are of live reports, and what vendors have to say about those.

    Attributes:
        query_types: The query types that vendors have for what happens now.
        complete: Fills in what a declaration may leave to the settings.
        review: Yields what is wrong with a well-formed declaration as (dotted field, problem) pairs.
    """

    query_types: Collection[str] = ()
    complete: Callable[[LiveReport], LiveReport] = lambda report: report
    review: Callable[[LiveReport], Iterable[tuple[str, str]]] = lambda _report: ()


_NO_LIVE_REPORTS = LiveRules()


def _no_review(_report: Report) -> Iterable[tuple[str, str]]:
    return ()


def _as_declared(report: Report) -> Report:
    return report


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None and node.start_mark else 0


def _line_of(node: yaml.Node | None, location: Location) -> int:
    """Return the line of the deepest part of ``location`` that exists in the file."""
    line = _line(node)
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in reversed(node.value) if key.value == str(step)), None)
            if found is None:
                return line
            line, node = _line(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = _line(node)
        else:
            return line
    return line


def _fields(location: Location, model: object) -> Iterable[str]:
    """Return the fields of the model or of its group at ``location``; none where the location is deeper."""
    for step in location:
        field = model.model_fields.get(str(step)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else None
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else ()


def _problem(error: ErrorDetails, model: type[BaseModel]) -> str:
    match error["type"]:
        case "extra_forbidden":
            expected = ", ".join(_fields(error["loc"][:-1], model))
            return f"unknown field {str(error['loc'][-1])!r}" + (f"; expected one of {expected}" if expected else "")
        case "missing":
            return "is missing"
        case "model_type":
            return "must be a mapping of fields"
        case "tuple_type" | "frozen_set_type" | "list_type":
            return "must be a list, for example [first, second]"
        case "string_type":
            return f"must be a text, and {_as_yaml(error['input'])} is none; write it in quotes if it is a name"
        case _:
            return error["msg"].removeprefix("Value error, ")


def _as_yaml(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return json.dumps(value, default=str)[:80]


@dataclass
class _Content:
    """Converts the nodes of one file to plain values, and collects what is wrong with the YAML itself.

    Dates stay texts: the field that expects a date reports an impossible one like any other mistake.
    """

    path: Path
    loader: Any
    mistakes: list[Mistake] = field(default_factory=list[Mistake])
    places: set[Location] = field(default_factory=set[Location])
    _open: list[yaml.Node] = field(default_factory=list[yaml.Node])
    _values: int = 0

    def value(self, node: yaml.Node, location: Location = ()) -> object:
        """Return the value of a node at a location."""
        if node in self._open:
            return self._report(node, location, "contains itself: write its content out")
        self._values += 1
        if self._values > _MAX_VALUES:
            raise self._error(node, location, f"makes more than {_MAX_VALUES:,} values of the file: use fewer aliases")
        self._open.append(node)
        try:
            match node:
                case yaml.MappingNode(tag=tag) if tag == f"{_TAG}map":
                    return self._mapping(node, location)
                case yaml.SequenceNode(tag=tag) if tag == f"{_TAG}seq":
                    return [self.value(each, (*location, number)) for number, each in enumerate(node.value)]
                case yaml.ScalarNode():
                    return self._scalar(node, location)
                case _:
                    raise self._unsupported(node, location)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, object]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, location, "a key must be the name of a field")
            elif key.value in first_lines and key.tag != _MERGE:
                place = (*location, key.value)
                self._report(key, place, f"is given twice, first on line {first_lines[key.value]}: take one out")
            else:
                first_lines[key.value] = _line(key)
        if any(key.tag == _MERGE for key, _ in node.value):
            try:
                self.loader.flatten_mapping(node)
            except yaml.MarkedYAMLError as error:
                self._report(node, location, f"is not YAML: {error.problem}")
        named = [(key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        return {key: self.value(value, (*location, key)) for key, value in named}

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> object:
        try:
            if node.tag in _TEXT_TAGS:
                node.value.encode()
                return node.value
            if node.tag in _PLAIN_TAGS:
                value = self.loader.construct_object(node)
                if node.tag == f"{_TAG}int" and not _DECIMAL_INT.fullmatch(node.value):
                    problem = f"{node.value[:80]!r} is {value} in YAML: write the number in decimal digits, or a text in quotes"
                    return self._report(node, location, problem)
                return value
        except (ValueError, LookupError, OverflowError):
            return self._report(node, location, f"{node.value[:80]!r} is no {node.tag.removeprefix(_TAG)}")
        raise self._unsupported(node, location)

    def _unsupported(self, node: yaml.Node, location: Location) -> DeclarationError:
        problem = f"is not YAML that a declaration may hold: {node.tag} is not supported, write a plain value"
        return self._error(node, location, problem)

    def _error(self, node: yaml.Node, location: Location, problem: str) -> DeclarationError:
        return DeclarationError([Mistake(self.path, _line(node), ".".join(map(str, location)), problem)])

    def _report(self, node: yaml.Node, location: Location, problem: str) -> None:
        self.places.add(location)
        self.mistakes.append(Mistake(self.path, _line(node), ".".join(map(str, location)), problem))

    def is_reported(self, location: Location) -> bool:
        """Return whether a mistake was reported at a location or above it."""
        return any(location[:length] in self.places for length in range(len(location) + 1))


def _parse(path: Path) -> tuple[yaml.Node, dict[str, object], _Content]:
    """Read a file, and return its root node, its fields, and what is wrong with it so far.

    Raises:
        DeclarationError: The file is not a mapping of fields.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode()
    except OSError as error:
        raise DeclarationError([Mistake(path, 0, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DeclarationError([Mistake(path, line, "", "cannot be read: it is not UTF-8 text")]) from error
    if unprintable := yaml.SafeLoader.NON_PRINTABLE.search(text):
        line, character = text.count("\n", 0, unprintable.start()) + 1, ord(unprintable[0])
        raise DeclarationError([Mistake(path, line, "", f"is not YAML: it contains the character U+{character:04X}")])
    loader = _Loader(text)
    content = _Content(path, loader)
    try:
        node = loader.get_single_node()
        data = content.value(node) if node else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise DeclarationError([Mistake(path, line, "", f"is not YAML: {error.problem}")]) from error
    except RecursionError as error:
        raise DeclarationError([Mistake(path, _deepest_line(text), "", "is nested too deep")]) from error
    if node is None or not isinstance(data, dict):
        raise DeclarationError([Mistake(path, 1, "", "must be a mapping of fields, for example `name: queue_hour`")])
    return node, cast("dict[str, object]", data), content


def _deepest_line(text: str) -> int:
    """Return the line with the most brackets or, without any, the deepest indentation."""
    depths = [(line.count("[") + line.count("{"), len(line) - len(line.lstrip())) for line in text.splitlines()]
    return depths.index(max(depths)) + 1


def read_report(path: Path, review: Review = _no_review, complete: Complete = _as_declared) -> Report:
    """Read one declaration.

    Raises:
        DeclarationError: The declaration is invalid; the error carries every mistake in the file.
    """
    node, data, content = _parse(path)
    return _check(path, node, content, lambda: complete(Report.model_validate(data)), review, Report)


def _read_declaration(path: Path, review: Review, complete: Complete, live: LiveRules) -> Declaration | LiveDeclaration:
    node, data, content = _parse(path)
    line = _line_of(node, ("name",))
    if data.get("query_type") in live.query_types:
        report = _check(
            path, node, content, lambda: live.complete(LiveReport.model_validate(data)), live.review, LiveReport
        )
        return LiveDeclaration(report, path, line)
    return Declaration(
        _check(path, node, content, lambda: complete(Report.model_validate(data)), review, Report), path, line
    )


def _check(
    path: Path,
    node: yaml.Node,
    content: _Content,
    validate: Callable[[], _AnyReport],
    review: Callable[[_AnyReport], Iterable[tuple[str, str]]],
    model: type[BaseModel],
) -> _AnyReport:
    """Return the report of a file.

    Raises:
        DeclarationError: The declaration is invalid; the error carries every mistake in the file.
    """
    mistakes = content.mistakes
    try:
        report = validate()
    except ValidationError as error:
        mistakes += [
            Mistake(path, _line_of(node, part["loc"]), ".".join(map(str, part["loc"])), _problem(part, model))
            for part in error.errors(include_url=False, include_context=False)
            if not content.is_reported(part["loc"])
        ]
        raise DeclarationError(mistakes) from error
    mistakes += [
        Mistake(path, _line_of(node, tuple(field.split("."))), field, problem) for field, problem in review(report)
    ]
    if mistakes:
        raise DeclarationError(mistakes)
    return report


def read_reports(folder: Path, review: Review = _no_review, complete: Complete = _as_declared) -> dict[str, Report]:
    """Read every declaration in a folder and return the reports by name, sorted by name.

    Raises:
        DeclarationError: As ``read_declarations``.
    """
    return {name: each.report for name, each in read_declarations(folder, review, complete)[0].items()}


def read_declarations(
    folder: Path, review: Review = _no_review, complete: Complete = _as_declared, live: LiveRules = _NO_LIVE_REPORTS
) -> tuple[dict[str, Declaration], dict[str, LiveDeclaration]]:
    """Read every declaration in a folder and return the reports and the live reports by name, each sorted by name.

    Raises:
        DeclarationError: The folder is missing or empty, a name is declared twice, or a file is invalid; the error
            carries the mistakes of all files.
    """
    paths = sorted({*folder.glob("*.yaml"), *folder.glob("*.yml")})
    if not paths:
        raise DeclarationError([Mistake(folder, 0, "", "contains no report declarations (*.yaml)")])
    declarations: dict[str, Declaration | LiveDeclaration] = {}
    mistakes: list[Mistake] = []
    for path in paths:
        try:
            found = _read_declaration(path, review, complete, live)
        except DeclarationError as error:
            mistakes.extend(error.mistakes)
            continue
        name = found.report.name
        if name in declarations:
            problem = f"{name!r} is already declared in {declarations[name].file}"
            mistakes.append(Mistake(path, found.line, "name", problem))
        declarations[name] = found
    if mistakes:
        raise DeclarationError(mistakes)
    by_name = sorted(declarations.items())
    return (
        {name: each for name, each in by_name if isinstance(each, Declaration)},
        {name: each for name, each in by_name if isinstance(each, LiveDeclaration)},
    )


def find_report(reports: Mapping[str, _AnyReport], name: str) -> _AnyReport:
    """Return the report with this name.

    Raises:
        UnknownReport: There is no such report; the message lists those declared.
    """
    if name not in reports:
        raise UnknownReport(f"there is no report {name!r}; declared reports: {', '.join(reports)}")
    return reports[name]

"""MkDocs hook that generates the tables of settings and report fields from the code."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import griffe
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ApiSettings, ClientCredentials, JobSettings, Settings, VendorAccount
from cache_pipeline.vendors.registry import find_vendor, vendor_names


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace markers such as ``<!-- table: settings -->`` by their tables."""
    return re.sub(r"<!-- table: (\w+) -->", lambda marker: _TABLES[marker[1]](), markdown)


def report_fields() -> str:
    """Return a table of the top-level fields of a declaration, and a table per group of fields."""
    schema = Report.model_json_schema()
    groups = {name: schema["$defs"][field["$ref"].rsplit("/", 1)[-1]] for name, field in _groups(schema)}
    tables = [_field_table(schema, schema)]
    tables += [f"## `{name}`\n\n{_field_table(group, schema)}" for name, group in groups.items()]
    return "\n\n".join(tables)


def live_report_fields() -> str:
    """Return a table of the fields of a live report, and a table per group of fields."""
    schema = LiveReport.model_json_schema()
    names = {"thresholds": "Thresholds", "service_level": "ServiceLevel", "a threshold": "Threshold"}
    groups = [f"`{name}`:\n\n{_field_table(schema['$defs'][group], schema)}" for name, group in names.items()]
    return "\n\n".join([_field_table(schema, schema), *groups])


def settings() -> str:
    """Return a table of the environment variables for general settings."""
    return _model_table(Settings, "CACHE_PIPELINE_", ("api", "jobs", "accounts"))


def api_settings() -> str:
    """Return a table of the environment variables of the HTTP API."""
    return _model_table(ApiSettings, "CACHE_PIPELINE_API__")


def job_settings() -> str:
    """Return a table of the environment variables of the job queue."""
    return _model_table(JobSettings, "CACHE_PIPELINE_JOBS__")


def account_fields() -> str:
    """Return tables of the fields of a vendor account, of its clients, and of what single vendors add."""
    tables = [_model_table(VendorAccount, ""), "Each of `clients`:", _model_table(ClientCredentials, "")]
    for vendor in map(find_vendor, vendor_names()):
        described = dict(_attributes(vendor.account))
        without = tuple(name for name in vendor.account.model_fields if name not in described)
        if described:
            tables += [f"Accounts of `{vendor.name}`:", _model_table(vendor.account, "", without)]
    return "\n\n".join(tables)


_TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (report_fields, live_report_fields, settings, api_settings, job_settings, account_fields)
}


def _model_table(model: type[BaseModel], prefix: str, without: tuple[str, ...] = ()) -> str:
    descriptions = dict(_attributes(model))
    rows = [
        (
            f"`{prefix}{name.upper() if prefix else name}`",
            _format_default(field.get_default(call_default_factory=False)),
            descriptions[name],
        )
        for name, field in model.model_fields.items()
        if name not in without
    ]
    return _table(("variable" if prefix else "field", "default", ""), rows)


def _attributes(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for section in griffe.Docstring(model.__doc__ or "").parse("google"):
        if section.kind is griffe.DocstringSectionKind.attributes:
            for attribute in section.value:
                yield attribute.name, " ".join(attribute.description.split()).replace("``", "`")


def _groups(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema["properties"].items():
        if name in ("fetch", "freshness", "publish"):
            yield name, field


def _field_table(definition: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = [
        (
            f"`{name}`",
            _type(field, schema),
            _default(field, name in definition.get("required", ())),
            field["description"],
        )
        for name, field in definition["properties"].items()
    ]
    return _table(("field", "type", "default", ""), rows)


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in field:
        return _type(schema["$defs"][field["$ref"].rsplit("/", 1)[-1]], schema)
    if "anyOf" in field:
        return " or ".join(kind for choice in field["anyOf"] if (kind := _type(choice, schema)) != "null")
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'], schema)}"
    return field.get("format") or field.get("type", "object")


def _default(field: dict[str, Any], required: bool) -> str:  # noqa: FBT001
    return "required" if required else _format_default(field.get("default"))


def _format_default(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None or default == () or default == []:
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default, default=str)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

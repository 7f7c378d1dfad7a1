"""Reading a vendor's JSON without trusting it: each read names the field that is not what it must be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from cache_pipeline.query.errors import InvalidInterval
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.schema import SchemaMismatch
from cache_pipeline.upstream.http import httpx


def read_json(response: httpx.Response) -> object:
    """The body as JSON.

    Raises:
        SchemaMismatch: not JSON (a cut-off body is not).
    """
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise SchemaMismatch(f"{response.request.url.path} answered with a body that is not JSON: {error}") from error


def read_object(response: httpx.Response) -> Mapping[str, object]:
    """The body as a JSON object.

    Raises:
        SchemaMismatch: not JSON (a cut-off body is not), or not an object.
    """
    body = read_json(response)
    return _mapping(body, response.request.url.path)


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SchemaMismatch(f"{name} is {type(value).__name__} where an object was expected")
    return cast("Mapping[str, object]", value)


def mapping_of(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The object under ``name``; empty where it is absent or null.

    Raises:
        SchemaMismatch: something else is there.
    """
    value = source.get(name)
    return {} if value is None else _mapping(value, name)


def mappings_of(source: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    """The list of objects under ``name``; empty where it is absent or null, as vendors leave out empty lists.

    Raises:
        SchemaMismatch: something else is there.
    """
    values = source.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise SchemaMismatch(f"{name} is {type(values).__name__} where a list was expected")
    return [_mapping(value, name) for value in cast("list[object]", values)]


def text_of(source: Mapping[str, object], name: str) -> str:
    """The text under ``name``.

    Raises:
        SchemaMismatch: absent, empty or not text.
    """
    text = optional_text(source, name)
    if not text:
        raise SchemaMismatch(f"{name} is missing")
    return text


def optional_text(source: Mapping[str, object], name: str) -> str | None:
    """The text under ``name``, or None where it is absent or null.

    Raises:
        SchemaMismatch: something else is there.
    """
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise SchemaMismatch(f"{name} is {type(value).__name__} where text was expected")
    return value


def instant_of(source: Mapping[str, object], name: str) -> datetime:
    """The instant under ``name``, in UTC.

    Raises:
        SchemaMismatch: absent, not ISO 8601, or without an offset.
    """
    try:
        return parse_instant(text_of(source, name))
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error


def interval_of(source: Mapping[str, object], name: str) -> Interval:
    """The interval under ``name``.

    Raises:
        SchemaMismatch: absent, or no ``start/end`` of two instants in order.
    """
    try:
        return Interval.parse(text_of(source, name))
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error

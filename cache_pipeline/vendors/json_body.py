"""Reading a vendor's JSON without trusting it: each read names the field that is not what it must be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import cast

from cache_pipeline.errors import InvalidInterval, SchemaMismatch
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.upstream.http import httpx


class MalformedBody(SchemaMismatch):
    """A body that is not even JSON: cut off, or of a proxy on the way; the next one may be whole."""

    retryable = True


def read_json(response: httpx.Response) -> object:
    """The body as JSON.

    Raises:
        MalformedBody: not JSON (a cut-off body is not).
    """
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise _no_json(response, error) from error


def _no_json(response: httpx.Response, error: Exception) -> MalformedBody:
    return MalformedBody(f"{response.request.url.path} answered with a body that is not JSON: {error}")


def read_object(response: httpx.Response) -> Mapping[str, object]:
    """The body as a JSON object.

    Raises:
        SchemaMismatch: not an object, or, as MalformedBody, not JSON.
    """
    body = read_json(response)
    return _mapping(body, response.request.url.path)


def read_incrementally(
    response: httpx.Response, listed: str, take: Callable[[Mapping[str, object]], None]
) -> Mapping[str, object]:
    """The body as a JSON object without one of its lists, whose objects are handed on one by one, as they are read.

    As objects of this language a page is many times as long as its text; so no more than one of them is held.

    Raises:
        SchemaMismatch: as ``read_object`` and ``read_mappings`` do, and whatever ``take`` raises.
    """
    rest: dict[str, object] = {}
    try:
        text = response.content.decode()
        place = _opened(text, _after_space(text, 0), "{")
        while text[place : place + 1] != "}":
            if not text.startswith('"', place):
                raise json.JSONDecodeError("Expecting property name", text, place)
            name, place = _DECODER.raw_decode(text, place)
            place = _opened(text, _after_space(text, place), ":")
            if name == listed and text.startswith("[", place):
                place = _each(text, place, lambda value: take(_mapping(value, listed)))
            else:
                rest[name], place = _DECODER.raw_decode(text, place)
            place = _separated(text, place, "}")
        if _after_space(text, place + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, place + 1)
    except SchemaMismatch:
        raise
    except (ValueError, RecursionError) as error:
        raise _no_json(response, error) from error
    return rest


_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _opened(text: str, place: int, mark: str) -> int:
    if not text.startswith(mark, place):
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, place)
    return _after_space(text, place + 1)


def _separated(text: str, place: int, last: str) -> int:
    """Where the next value begins, or the mark that ends them stands."""
    place = _after_space(text, place)
    if text.startswith(last, place):
        return place
    place = _opened(text, place, ",")
    if text.startswith(last, place):
        raise json.JSONDecodeError("Expecting value", text, place)
    return place


def _each(text: str, place: int, take: Callable[[object], None]) -> int:
    """Hand on each value of a list that begins here; gives where it ends."""
    place = _opened(text, place, "[")
    while not text.startswith("]", place):
        value, place = _DECODER.raw_decode(text, place)
        take(value)
        place = _separated(text, place, "]")
    return place + 1


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SchemaMismatch(f"{name} is {type(value).__name__} where an object was expected")
    return cast("Mapping[str, object]", value)


def read_mapping(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The object under ``name``; empty where it is absent or null.

    Raises:
        SchemaMismatch: something else is there.
    """
    value = source.get(name)
    return {} if value is None else _mapping(value, name)


def read_mappings(source: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
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


def read_text(source: Mapping[str, object], name: str) -> str:
    """The text under ``name``.

    Raises:
        SchemaMismatch: absent, empty or not text.
    """
    text = read_optional_text(source, name)
    if not text:
        raise SchemaMismatch(f"{name} is missing")
    return text


def read_optional_text(source: Mapping[str, object], name: str) -> str | None:
    """The text under ``name``, or None where it is absent or null.

    Raises:
        SchemaMismatch: something else is there.
    """
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise SchemaMismatch(f"{name} is {type(value).__name__} where text was expected")
    return value


def read_instant(source: Mapping[str, object], name: str) -> datetime:
    """The instant under ``name``, in UTC.

    Raises:
        SchemaMismatch: absent, not ISO 8601, or without an offset.
    """
    try:
        return parse_instant(read_text(source, name))
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error


def read_interval(source: Mapping[str, object], name: str) -> Interval:
    """The interval under ``name``.

    Raises:
        SchemaMismatch: absent, or no ``start/end`` of two instants in order.
    """
    try:
        return Interval.parse(read_text(source, name))
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error

"""Typed reads from a vendor's JSON body; every error names the field that has the wrong shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import cast

from cache_pipeline.errors import InvalidInterval, SchemaMismatch, UpstreamFaulted, UpstreamRefused
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.upstream.dialect import shown_path
from cache_pipeline.upstream.error_bodies import parse_error_body
from cache_pipeline.upstream.http import httpx

_DECODER = json.JSONDecoder()
_WHITESPACE = re.compile(r"[ \t\n\r]*")


class MalformedBody(SchemaMismatch):
    """The body is not JSON: it was cut off, or a proxy on the way wrote it. The next attempt may return a complete one."""

    retryable = True


def read_json(response: httpx.Response) -> object:
    """Return the body as JSON.

    Raises:
        MalformedBody: The body is not JSON, for example because it was cut off.
    """
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise _malformed(response, error) from error


def read_object(response: httpx.Response) -> Mapping[str, object]:
    """Return the body as a JSON object.

    Raises:
        SchemaMismatch: The body is not an object; MalformedBody if it is not JSON.
        UpstreamRefused, UpstreamFaulted: The body is a vendor's error although the status is a 2xx.
    """
    body = _mapping(read_json(response), shown_path(response.request))
    _raise_for_error_body(response, body)
    return body


def read_incrementally(
    response: httpx.Response, list_name: str, consume: Callable[[Mapping[str, object]], None]
) -> Mapping[str, object]:
    """Return the body as a JSON object without one of its lists, whose objects go to a callback one by one.

    As Python objects a page is many times larger than its text, so at most one of the list's objects is in memory at a
    time.

    Args:
        response: The response to read.
        list_name: Name of the list whose objects are passed on.
        consume: Callback that receives each object of that list.

    Raises:
        SchemaMismatch: As for ``read_object`` and ``read_mappings``, and whatever ``consume`` raises.
        UpstreamRefused, UpstreamFaulted: As for ``read_object``.
    """
    rest: dict[str, object] = {}
    try:
        text = response.content.decode()
        position = _skip_token(text, _skip_whitespace(text, 0), "{")
        while text[position : position + 1] != "}":
            if not text.startswith('"', position):
                raise json.JSONDecodeError("Expecting property name", text, position)
            name, position = _DECODER.raw_decode(text, position)
            position = _skip_token(text, _skip_whitespace(text, position), ":")
            if name == list_name and text.startswith("[", position):
                position = _decode_items(text, position, lambda value: consume(_mapping(value, list_name)))
            else:
                rest[name], position = _DECODER.raw_decode(text, position)
            position = _skip_separator(text, position, "}")
        if _skip_whitespace(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, position + 1)
    except SchemaMismatch:
        raise
    except (ValueError, RecursionError) as error:
        raise _malformed(response, error) from error
    _raise_for_error_body(response, rest)
    return rest


def read_mapping(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the object under ``name``, or an empty one if it is absent or null.

    Raises:
        SchemaMismatch: The value is not an object.
    """
    value = source.get(name)
    return {} if value is None else _mapping(value, name)


def read_mappings(source: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    """Return the list of objects under ``name``, or an empty one if it is absent or null: vendors omit empty lists.

    Raises:
        SchemaMismatch: The value is not a list of objects.
    """
    values = source.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise SchemaMismatch(f"{name} is {type(values).__name__} where a list was expected")
    return [_mapping(value, name) for value in cast("list[object]", values)]


def read_text(source: Mapping[str, object], name: str) -> str:
    """Return the text under ``name``.

    Raises:
        SchemaMismatch: The value is absent, empty or not text.
    """
    text = read_optional_text(source, name)
    if not text:
        raise SchemaMismatch(f"{name} is missing")
    return text


def read_optional_text(source: Mapping[str, object], name: str) -> str | None:
    """Return the text under ``name``, or None if it is absent or null.

    Raises:
        SchemaMismatch: The value is not text.
    """
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise SchemaMismatch(f"{name} is {type(value).__name__} where text was expected")
    return value


def read_texts(source: Mapping[str, object], name: str) -> list[str]:
    """Return the list of texts under ``name``, or an empty one if it is absent or null.

    Raises:
        SchemaMismatch: The value is not a list of texts.
    """
    values = source.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):  # pyright: ignore[reportUnknownVariableType]
        raise SchemaMismatch(f"{name} is not a list of texts")
    return values  # pyright: ignore[reportUnknownVariableType]


def read_instant(source: Mapping[str, object], name: str) -> datetime:
    """Return the instant under ``name``, in UTC.

    Raises:
        SchemaMismatch: The value is absent, not ISO 8601, or has no offset.
    """
    try:
        return parse_instant(read_text(source, name))
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error


def read_interval(source: Mapping[str, object], name: str) -> Interval:
    """Return the interval under ``name``.

    Raises:
        SchemaMismatch: The value is absent, or is not a ``start/end`` of two instants in order.
    """
    try:
        return Interval.parse(read_text(source, name))
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error


def to_whole_number(value: object, name: str) -> int:
    """Return a value as an integer of 64 bits.

    Raises:
        SchemaMismatch: It is none; so are Infinity and NaN, which Python reads in JSON.
    """
    if not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 2**63 and value == int(value):
        return int(value)
    raise SchemaMismatch(f"{name} is {value!r} where a whole number was expected")


def _malformed(response: httpx.Response, error: Exception) -> MalformedBody:
    return MalformedBody(f"{shown_path(response.request)} answered with a body that is not JSON: {error}")


def _raise_for_error_body(response: httpx.Response, body: Mapping[str, object]) -> None:
    """Raise for an error that came with a 2xx: what lacks the list of an answer would pass for one without rows."""
    status = body.get("status")
    if not isinstance(status, int) or not 400 <= status <= 599:
        return
    method, path = response.request.method, shown_path(response.request)
    code, message, correlation_id = parse_error_body(response)
    if status >= 500:
        raise UpstreamFaulted(
            status=status, method=method, path=path, attempts=1, message=message, correlation_id=correlation_id
        )
    raise UpstreamRefused(
        status=status, method=method, path=path, code=code, message=message, correlation_id=correlation_id
    )


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SchemaMismatch(f"{name} is {type(value).__name__} where an object was expected")
    return cast("Mapping[str, object]", value)


def _skip_whitespace(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _skip_token(text: str, position: int, token: str) -> int:
    if not text.startswith(token, position):
        raise json.JSONDecodeError(f"Expecting {token!r}", text, position)
    return _skip_whitespace(text, position + 1)


def _skip_separator(text: str, position: int, closing: str) -> int:
    """Return the position of the next value, or of the closing bracket."""
    position = _skip_whitespace(text, position)
    if text.startswith(closing, position):
        return position
    position = _skip_token(text, position, ",")
    if text.startswith(closing, position):
        raise json.JSONDecodeError("Expecting value", text, position)
    return position


def _decode_items(text: str, position: int, consume: Callable[[object], None]) -> int:
    """Pass on each value of the list that starts here. Return the position after the list."""
    position = _skip_token(text, position, "[")
    while not text.startswith("]", position):
        value, position = _DECODER.raw_decode(text, position)
        consume(value)
        position = _skip_separator(text, position, "]")
    return position + 1

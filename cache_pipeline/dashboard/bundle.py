"""The page's own modules as one file: a line with 40 ms to go and come is waited for once, not once for each few of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cache_pipeline.errors import CachePipelineError

_IMPORT = re.compile(r"^import \{ ([\w, ]+) \} from '\./([\w/]+)\.js'$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|class|(?:async )?function) (\w+))", re.MULTILINE)
_OTHER = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


class CannotBundle(CachePipelineError):
    """A module that imports or exports in another way than the page's modules do; the text says which."""


def bundled(sources: Mapping[str, bytes], first: str) -> bytes:
    """A module and all that it imports as one module, each in a scope of its own.

    What lies in a folder of its own (``vendor/``) is imported as before.

    Args:
        sources: the files, by path.
        first: the path of the module, as ``app.js``.

    Raises:
        CannotBundle: modules import each other in a circle, or in another way than by names from a file.
    """
    foreign: dict[str, None] = {}
    parts = [_scoped(name, sources, foreign) for name in _in_order(first.removesuffix(".js"), sources, ())]
    heads = (f"import * as {_variable(name)} from './{name}.js'" for name in foreign)
    return "\n".join([*heads, *parts, ""]).encode()


def _in_order(name: str, sources: Mapping[str, bytes], above: tuple[str, ...]) -> list[str]:
    """The modules that one needs, each before those that need it, itself last."""
    if name in above:
        raise CannotBundle(f"{' → '.join((*above, name))}: modules import each other in a circle")
    found: dict[str, None] = {}
    for inner in _needed(name, sources):
        found.update(dict.fromkeys(_in_order(inner, sources, (*above, name))))
    return [*found, name]


def _needed(name: str, sources: Mapping[str, bytes]) -> Iterator[str]:
    for match in _IMPORT.finditer(sources[f"{name}.js"].decode()):
        if "/" not in match[2]:
            yield match[2]


def _scoped(name: str, sources: Mapping[str, bytes], foreign: dict[str, None]) -> str:
    text = sources[f"{name}.js"].decode()
    foreign.update({match[2]: None for match in _IMPORT.finditer(text) if "/" in match[2]})
    exported = [match[1] for match in _EXPORT.finditer(text)]
    body = _EXPORT.sub("", _IMPORT.sub(lambda found: f"const {{ {found[1]} }} = {_variable(found[2])}", text))
    if other := _OTHER.search(body):
        raise CannotBundle(f"{name}.js: {other[0].strip()[:80]!r}: import by names on one line, and export as declared")
    return f"const {_variable(name)} = (() => {{\n{body}return {{ {', '.join(exported)} }}\n}})()"


def _variable(name: str) -> str:
    return f"{name.replace('/', '_')}_js"

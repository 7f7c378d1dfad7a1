"""Bundle the page's own modules into one file, so that a slow connection costs one round trip instead of several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cache_pipeline.errors import CachePipelineError

_IMPORT = re.compile(r"^import \{ ([\w, ]+) \} from '\./([\w/]+)\.js'$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|class|(?:async )?function) (\w+))", re.MULTILINE)
_OTHER = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


class BundleError(CachePipelineError):
    """A module uses a form of import or export that the bundler does not support."""


def bundle_modules(sources: Mapping[str, bytes], entry: str) -> bytes:
    """Join a module and everything it imports into one module, each in its own scope.

    Modules in a subfolder (``vendor/``) remain separate imports.

    Args:
        sources: The files, by path.
        entry: The path of the module to start from, for example ``app.js``.

    Raises:
        BundleError: Modules import each other in a circle, or in another way than by names from a file.
    """
    external: dict[str, None] = {}
    scopes = [
        _wrap_in_scope(name, sources, external) for name in _ordered_imports(entry.removesuffix(".js"), sources, ())
    ]
    imports = (f"import * as {_variable(name)} from './{name}.js'" for name in external)
    return "\n".join([*imports, *scopes, ""]).encode()


def _ordered_imports(name: str, sources: Mapping[str, bytes], importers: tuple[str, ...]) -> list[str]:
    """List a module's dependencies, each before the modules that import it, and the module itself last."""
    if name in importers:
        raise BundleError(
            f"{' → '.join((*importers, name))}: modules import each other in a circle",
            remedy="move what they share to a third",
        )
    ordered: dict[str, None] = {}
    for inner in _own_imports(name, sources):
        ordered.update(dict.fromkeys(_ordered_imports(inner, sources, (*importers, name))))
    return [*ordered, name]


def _own_imports(name: str, sources: Mapping[str, bytes]) -> Iterator[str]:
    for match in _IMPORT.finditer(sources[f"{name}.js"].decode()):
        if "/" not in match[2]:
            yield match[2]


def _wrap_in_scope(name: str, sources: Mapping[str, bytes], external: dict[str, None]) -> str:
    text = sources[f"{name}.js"].decode()
    external.update({match[2]: None for match in _IMPORT.finditer(text) if "/" in match[2]})
    exported = [match[1] for match in _EXPORT.finditer(text)]
    body = _EXPORT.sub("", _IMPORT.sub(lambda match: f"const {{ {match[1]} }} = {_variable(match[2])}", text))
    if other := _OTHER.search(body):
        raise BundleError(
            f"{name}.js: {other[0].strip()[:80]!r} cannot be bundled",
            remedy="import by names on one line, and export declarations",
        )
    return f"const {_variable(name)} = (() => {{\n{body}return {{ {', '.join(exported)} }}\n}})()"


def _variable(name: str) -> str:
    return f"{name.replace('/', '_')}_js"

"""The executives' dashboard: static files, shipped as package data, that read the published Parquet in the browser.

``page/`` works as it is, without a build step. The published copy also has its modules bundled into one file.
``third_party.py`` generates ``page/vendor/``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from cache_pipeline.dashboard.bundle import bundle_modules

_BUNDLE = "page.js"
_MODULE_PRELOAD = re.compile(r'<link rel="modulepreload" href="[\w.]+">\n')
_EARLY_SCRIPT = '<script src="early.js" async></script>'
_LINKED_FILES = ("style.css", _BUNDLE, "vendor/parquet.js")


def page_sources() -> Mapping[str, bytes]:
    """Return the page's source files by path."""
    return dict(_read_tree(files(__name__) / "page", ""))


def csp_hash(inline: str) -> str:
    """Return the Content-Security-Policy source that allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def script_policy() -> str:
    """Return the ``script-src`` directive of the published page: its own host and one inline script.

    The inline script requests the manifest before any file of the page has arrived. If a proxy's header forbids it, the page
    still works and requests the manifest a little later.
    """
    return f"script-src 'self' {csp_hash(page_sources()['early.js'].decode())}"


def _read_tree(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found.extend(_read_tree(entry, f"{prefix}{entry.name}/"))
        else:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def published_page() -> Mapping[str, bytes]:
    """Return the published page's files by path below the manifest's folder, ``index.html`` last.

    All files except ``index.html`` are in a folder named by a hash of their content, so that they can be cached indefinitely.
    """
    sources = dict(page_sources())
    index, early = sources.pop("index.html").decode(), sources.pop("early.js").decode()
    sources[_BUNDLE] = bundle_modules(sources, "app.js")
    digest = hashlib.sha256()
    for path, body in sources.items():
        digest.update(path.encode() + b"\0" + hashlib.sha256(body).digest())
    folder = f"assets/{digest.hexdigest()[:16]}/"
    html = _MODULE_PRELOAD.sub("", index).replace('src="app.js"', f'src="{_BUNDLE}"')
    html = html.replace("script-src 'self'", script_policy()).replace(_EARLY_SCRIPT, f"<script>{early}</script>")
    for path in _LINKED_FILES:
        html = html.replace(f'="{path}"', f'="{folder}{path}"')
    return {**{folder + path: body for path, body in sources.items()}, "index.html": html.encode()}

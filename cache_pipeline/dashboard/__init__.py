"""The executives' page: static files, shipped as package data, that read the manifest and its Parquet in the browser.

``page/`` works as it stands; there is nothing to build. What is published has its modules in one file besides.
``page/vendor/`` is made by ``vendor.py``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from cache_pipeline.dashboard.bundle import bundled

_BUNDLE = "page.js"
_OWN_MODULE = re.compile(r'<link rel="modulepreload" href="[\w.]+">\n')
_EARLY = '<script src="early.js" async></script>'
_LINKED = ("style.css", _BUNDLE, "vendor/parquet.js")


def page_sources() -> Mapping[str, bytes]:
    """The page's files by path, as they are in the package."""
    return dict(_walked(files(__name__) / "page", ""))


def allowed(inline: str) -> str:
    """How a policy names a script or style that stands in the page itself."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def script_policy() -> str:
    """Where the published page's scripts may come from: its own host, and the one line that the page itself holds.

    That line asks for the manifest before any file of the page is there. Behind a header that does not allow it the page
    works as well, and asks a little later.
    """
    return f"script-src 'self' {allowed(page_sources()['early.js'].decode())}"


def _walked(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found.extend(_walked(entry, f"{prefix}{entry.name}/"))
        else:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def published_page() -> Mapping[str, bytes]:
    """The page's files by path below the manifest's folder, ``index.html`` last.

    All but ``index.html`` lie in a folder named by their content, so that they may be cached for good.
    """
    sources = dict(page_sources())
    index, early = sources.pop("index.html").decode(), sources.pop("early.js").decode()
    sources[_BUNDLE] = bundled(sources, "app.js")
    digest = hashlib.sha256()
    for path, body in sources.items():
        digest.update(path.encode() + b"\0" + hashlib.sha256(body).digest())
    folder = f"assets/{digest.hexdigest()[:16]}/"
    html = _OWN_MODULE.sub("", index).replace('src="app.js"', f'src="{_BUNDLE}"')
    html = html.replace("script-src 'self'", script_policy()).replace(_EARLY, f"<script>{early}</script>")
    for path in _LINKED:
        html = html.replace(f'="{path}"', f'="{folder}{path}"')
    return {**{folder + path: body for path, body in sources.items()}, "index.html": html.encode()}

"""The executives' page: static files, shipped as package data, that read the manifest and its Parquet in the browser.

``page/`` works as it stands; there is nothing to build. What is published has its modules in one file besides.
``page/vendor/`` is made by ``vendor.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from cache_pipeline.dashboard.bundle import bundled

_BUNDLE = "page.js"
_OWN_MODULE = re.compile(r'<link rel="modulepreload" href="[\w.]+">\n')
_LINKED = ("style.css", _BUNDLE, "early.js", "vendor/parquet.js")


def page_sources() -> Mapping[str, bytes]:
    """The page's files by path, as they are in the package."""
    return dict(_walked(files(__name__) / "page", ""))


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
    index = sources.pop("index.html").decode()
    sources[_BUNDLE] = bundled(sources, "app.js")
    digest = hashlib.sha256()
    for path, body in sources.items():
        digest.update(path.encode() + b"\0" + hashlib.sha256(body).digest())
    folder = f"assets/{digest.hexdigest()[:16]}/"
    html = _OWN_MODULE.sub("", index).replace('src="app.js"', f'src="{_BUNDLE}"')
    for path in _LINKED:
        html = html.replace(f'="{path}"', f'="{folder}{path}"')
    return {**{folder + path: body for path, body in sources.items()}, "index.html": html.encode()}

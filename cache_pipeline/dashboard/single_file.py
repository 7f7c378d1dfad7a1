"""Build the page and its data as one HTML file that can be e-mailed or opened from disk and makes no requests."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from cache_pipeline.dashboard import csp_hash, page_sources

_IMPORT = re.compile(r"(\bfrom\s*')\./([\w/.-]+\.js')")
_HEAD_LINK = re.compile(r'<link rel="(?:modulepreload|stylesheet)"[^>]*>\n')
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")[^"]*')
_EARLY_SCRIPT = '<script src="early.js" async></script>\n'
_SCRIPT = '<script type="module" src="app.js"></script>\n'
_START = "import 'page/app.js'"


def single_file_page(published: Mapping[str, bytes]) -> bytes:
    """Return the page with the published files embedded in it.

    Args:
        published: ``manifest.json``, ``names.json`` and the data files that the manifest lists, by path.
    """
    sources = dict(page_sources())
    style = sources["style.css"].decode()
    modules = {
        f"page/{path}": _data_url(_IMPORT.sub(r"\1page/\2", body.decode()).encode())
        for path, body in sources.items()
        if path.endswith(".js") and path != "early.js"
    }
    importmap = json.dumps({"imports": modules})
    embedded = json.dumps({path: base64.b64encode(body).decode() for path, body in published.items()})
    policy = (
        f"default-src 'none'; script-src data: {csp_hash(importmap)} {csp_hash(_START)}; style-src {csp_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = _POLICY.sub(lambda found: found[1] + policy, _HEAD_LINK.sub("", sources["index.html"].decode()))
    head = (
        f"<style>{style}</style>\n"
        f'<script type="importmap">{importmap}</script>\n'
        f'<script type="application/json" id="embedded">{embedded}</script>\n'
        f'<script type="module">{_START}</script>\n'
    )
    return html.replace(_EARLY_SCRIPT, "").replace(_SCRIPT, head).encode()


def _data_url(body: bytes) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(body).decode()}"

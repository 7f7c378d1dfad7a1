"""Bundling the page's modules: nothing is lost, and unsupported modules are reported."""

import re

import pytest

from cache_pipeline.dashboard import csp_hash, page_sources, published_page
from cache_pipeline.dashboard.bundle import BundleError, bundle_modules


def test_modules_are_ordered_and_scoped():
    sources = {
        "app.js": b"import { twice } from './sums.js'\nimport { one } from './ones.js'\nimport { far } from './vendor/far.js'\n"
        b"const same = 1\ntwice(one, far, same)\n",
        "sums.js": b"import { one } from './ones.js'\nconst same = 2\nexport function twice() { return same + one }\n",
        "ones.js": b"export const one = 1\n",
        "vendor/far.js": b"export const far = 1\n",
    }
    text = bundle_modules(sources, "app.js").decode()
    assert re.findall(r"^const (\w+) = \(\(\) => \{$", text, re.MULTILINE) == ["ones_js", "sums_js", "app_js"]
    assert text.startswith("import * as vendor_far_js from './vendor/far.js'\n")
    assert "return { twice }" in text
    assert not re.search(r"^export", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (b"import { a } from './app.js'\n", "app → other → app: modules import each other in a circle"),
        (
            b"import all from './app.js'\n",
            "other.js: \"import all from './app.js'\" cannot be bundled; import by names on one line",
        ),
        (b"export default 1\n", "other.js: 'export default 1'"),
    ],
)
def test_unsupported_module_is_reported(wrong: bytes, message: str):
    sources = {"app.js": b"import { b } from './other.js'\n", "other.js": wrong}
    with pytest.raises(BundleError) as raised:
        bundle_modules(sources, "app.js")
    assert message in str(raised.value)


def test_published_page_needs_at_most_six_connections():
    """A browser opens six connections: the page needs the manifest, the labels, the script, the style and the Parquet reader."""
    published = published_page()
    links = re.findall(r'(?:src|href)="([^"#:]+)"', published["index.html"].decode())
    assert len(links) == 3
    assert set(links) <= set(published)


def test_published_script_contains_every_module():
    script = next(body.decode() for path, body in published_page().items() if path.endswith("/page.js"))
    own = [path for path in page_sources() if path.endswith(".js") and "/" not in path and path != "early.js"]
    assert sorted(re.findall(r"^const (\w+)_js = \(\(\)", script, re.MULTILINE)) == sorted(
        p.removesuffix(".js") for p in own
    )


def test_policy_allows_exactly_the_inline_script():
    html = published_page()["index.html"].decode()
    [inline] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert csp_hash(inline) in re.findall(r"script-src ([^;]+);", html)[0]
    assert "manifest.json" in inline

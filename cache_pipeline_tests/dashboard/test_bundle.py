"""The page's modules in one file: nothing is lost on the way, and what cannot be joined is told."""

import re

import pytest

from cache_pipeline.dashboard import allowed, page_sources, published_page
from cache_pipeline.dashboard.bundle import CannotBundle, bundled


def test_modules_come_before_those_that_need_them_each_once_and_in_a_scope_of_its_own():
    sources = {
        "app.js": b"import { twice } from './sums.js'\nimport { one } from './ones.js'\nimport { far } from './vendor/far.js'\n"
        b"const same = 1\ntwice(one, far, same)\n",
        "sums.js": b"import { one } from './ones.js'\nconst same = 2\nexport function twice() { return same + one }\n",
        "ones.js": b"export const one = 1\n",
        "vendor/far.js": b"export const far = 1\n",
    }
    text = bundled(sources, "app.js").decode()
    assert re.findall(r"^const (\w+) = \(\(\) => \{$", text, re.MULTILINE) == ["ones_js", "sums_js", "app_js"]
    assert text.startswith("import * as vendor_far_js from './vendor/far.js'\n")
    assert "return { twice }" in text
    assert not re.search(r"^export", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (b"import { a } from './app.js'\n", "app → other → app: modules import each other in a circle"),
        (b"import all from './app.js'\n", "other.js: \"import all from './app.js'\": import by names on one line"),
        (b"export default 1\n", "other.js: 'export default 1'"),
    ],
)
def test_a_module_that_cannot_be_joined_is_told(wrong: bytes, told: str):
    sources = {"app.js": b"import { b } from './other.js'\n", "other.js": wrong}
    with pytest.raises(CannotBundle) as raised:
        bundled(sources, "app.js")
    assert told in str(raised.value)


def test_the_published_page_asks_for_no_more_files_than_a_browser_fetches_at_once():
    """Six connections: the manifest and the labels, which the page asks for itself; script, style and Parquet reader."""
    published = published_page()
    links = re.findall(r'(?:src|href)="([^"#:]+)"', published["index.html"].decode())
    assert len(links) == 3
    assert set(links) <= set(published)


def test_every_module_of_the_page_is_in_the_published_script():
    script = next(body.decode() for path, body in published_page().items() if path.endswith("/page.js"))
    own = [path for path in page_sources() if path.endswith(".js") and "/" not in path and path != "early.js"]
    assert sorted(re.findall(r"^const (\w+)_js = \(\(\)", script, re.MULTILINE)) == sorted(
        p.removesuffix(".js") for p in own
    )


def test_the_one_script_in_the_page_is_the_one_that_its_policy_names():
    html = published_page()["index.html"].decode()
    [inline] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert allowed(inline) in re.findall(r"script-src ([^;]+);", html)[0]
    assert "manifest.json" in inline

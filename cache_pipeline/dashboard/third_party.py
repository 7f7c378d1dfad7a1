"""Regenerate ``page/vendor/`` from npm, for maintainers: ``python -m cache_pipeline.dashboard.third_party [--update]``.

Two libraries read Parquet in the browser. They are bundled into one module, with their licences and versions in files beside it.
Without ``--update``, exactly the recorded versions are used and the result must equal the recorded one, digests included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "page" / "vendor"
_RECORD = "versions.json"
_BUNDLE = "parquet.js"
_LIBRARIES = ("hyparquet", "fzstd")
_ENTRY_MODULE = """export { parquetMetadata, parquetRead } from 'hyparquet'
export { decompress as zstd } from 'fzstd'
"""
_ESBUILD_OPTIONS = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--legal-comments=none")


def read_versions() -> dict[str, Any]:
    """Read ``versions.json``: the libraries, the bundler and the bundle's digest."""
    return json.loads((_FOLDER / _RECORD).read_text())


def bundle_libraries(versions: Mapping[str, str]) -> dict[str, Any]:
    """Fetch these versions, bundle them and write the folder.

    Args:
        versions: The versions of both libraries and of esbuild, by package name.

    Returns:
        The new record.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: install it, it fetches the libraries and the bundler")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": dict(versions)}))
        _run([npm, "install", "--silent", "--no-audit", "--no-fund"], folder)
        packages = json.loads((folder / "node_modules/.package-lock.json").read_text())["packages"]
        (folder / "entry.js").write_text(_ENTRY_MODULE)
        esbuild = folder / "node_modules/.bin/esbuild"
        _run([esbuild, "entry.js", *_ESBUILD_OPTIONS, f"--outfile={_BUNDLE}", "--log-level=warning"], folder)
        body = (folder / _BUNDLE).read_bytes()
        libraries = {library: _package_record(packages[f"node_modules/{library}"]) for library in _LIBRARIES}
        record = {
            "libraries": libraries,
            "bundler": {"esbuild": packages["node_modules/esbuild"]["version"], "options": list(_ESBUILD_OPTIONS)},
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        licences = [
            f"{library} {libraries[library]['version']}\n\n{_read_licence(folder / 'node_modules' / library)}"
            for library in _LIBRARIES
        ]
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / _BUNDLE).write_bytes(body)
    (_FOLDER / "licences.txt").write_text("\n\n".join(licences))
    (_FOLDER / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _run(command: Sequence[str | Path], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - this machine's npm, and the esbuild it installed


def _package_record(package: Mapping[str, Any]) -> dict[str, str]:
    return {"version": package["version"], "licence": package["license"], "integrity": package["integrity"]}


def _read_licence(folder: Path) -> str:
    return next(path for path in sorted(folder.iterdir()) if path.name.upper().startswith("LICEN")).read_text().strip()


def main() -> None:
    """Regenerate the folder; exit with code 1 if the recorded versions produced a different result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="use the latest versions instead of the recorded ones")
    update = parser.parse_args().update
    if update:
        bundle_libraries(dict.fromkeys((*_LIBRARIES, "esbuild"), "latest"))
        return
    before = read_versions()
    versions = {name: library["version"] for name, library in before["libraries"].items()}
    if bundle_libraries({**versions, "esbuild": before["bundler"]["esbuild"]}) != before:
        sys.exit(f"{_FOLDER} differs from what {_RECORD} recorded: review the difference before committing it")


if __name__ == "__main__":
    main()

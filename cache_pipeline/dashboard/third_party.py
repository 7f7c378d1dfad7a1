"""For maintainers: make ``page/vendor/`` anew from npm, as ``python -m cache_pipeline.dashboard.third_party [--update]``.

Two libraries read Parquet in the browser; they are bundled into one module, whose licences and versions stand beside it.
Without ``--update`` exactly the recorded versions are taken, and the packages must have the recorded digests.
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
_ENTRY = """export { parquetMetadata, parquetRead } from 'hyparquet'
export { decompress as zstd } from 'fzstd'
"""
_BUNDLING = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--legal-comments=none")


def recorded() -> dict[str, Any]:
    """What ``versions.json`` says: libraries, bundler and the bundle's digest."""
    return json.loads((_FOLDER / _RECORD).read_text())


def vendor(versions: Mapping[str, str]) -> dict[str, Any]:
    """Fetch these versions, bundle them, and write the folder.

    Args:
        versions: of both libraries and of esbuild.

    Returns:
        The new record.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: it fetches the libraries and the bundler")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": dict(versions)}))
        _run([npm, "install", "--silent", "--no-audit", "--no-fund"], folder)
        packages = json.loads((folder / "node_modules/.package-lock.json").read_text())["packages"]
        (folder / "entry.js").write_text(_ENTRY)
        esbuild = folder / "node_modules/.bin/esbuild"
        _run([esbuild, "entry.js", *_BUNDLING, f"--outfile={_BUNDLE}", "--log-level=warning"], folder)
        body = (folder / _BUNDLE).read_bytes()
        libraries = {library: _described(packages[f"node_modules/{library}"]) for library in _LIBRARIES}
        record = {
            "libraries": libraries,
            "bundler": {"esbuild": packages["node_modules/esbuild"]["version"], "options": list(_BUNDLING)},
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        licences = [
            f"{library} {libraries[library]['version']}\n\n{_licence(folder / 'node_modules' / library)}"
            for library in _LIBRARIES
        ]
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / _BUNDLE).write_bytes(body)
    (_FOLDER / "licences.txt").write_text("\n\n".join(licences))
    (_FOLDER / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _run(command: Sequence[str | Path], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - npm of this machine, and what it installed


def _described(package: Mapping[str, Any]) -> dict[str, str]:
    return {"version": package["version"], "licence": package["license"], "integrity": package["integrity"]}


def _licence(folder: Path) -> str:
    return next(path for path in sorted(folder.iterdir()) if path.name.upper().startswith("LICEN")).read_text().strip()


def main() -> None:
    """Make the folder anew; exit code 1 when the same versions gave something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="take the latest versions")
    update = parser.parse_args().update
    if update:
        vendor(dict.fromkeys((*_LIBRARIES, "esbuild"), "latest"))
        return
    before = recorded()
    versions = {name: library["version"] for name, library in before["libraries"].items()}
    if vendor({**versions, "esbuild": before["bundler"]["esbuild"]}) != before:
        sys.exit(f"{_FOLDER} is not what its record said: look at the difference before committing it")


if __name__ == "__main__":
    main()

"""Scan all files tracked by git for secrets: ``python -m cache_pipeline_tests.security.scan``.

``allowed.yaml`` lists exceptions, each with its reason. Passwords and keys in the tests are fictional, so there the scan reports only
strings with the format of a real key: private keys, and keys of known services.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings

_ALLOWED = Path(__file__).with_name("allowed.yaml")
#: Skipped: locked requirements are long lists of hashes, and images are not text.
_SKIPPED_FILES = ("requirements.txt", "requirements-dev.txt")
_SKIPPED_SUFFIXES = {".png", ".woff2", ".parquet", ".gz"}
#: Detectors that guess from names or entropy instead of a key's format.
_HEURISTIC_DETECTORS = {
    "Secret Keyword",
    "Basic Auth Credentials",
    "Base64 High Entropy String",
    "Hex High Entropy String",
}
#: A checksum as in a Content-Security-Policy or an integrity attribute.
_CHECKSUM = re.compile(r"sha(256|384|512)-")


def scanned_files() -> list[str]:
    """Return the files tracked by git that the scan reads."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    return [
        name
        for name in listed.stdout.splitlines()
        if name not in _SKIPPED_FILES and Path(name).suffix not in _SKIPPED_SUFFIXES
    ]


def find_suspects(names: Iterable[str]) -> list[tuple[str, int, str, str]]:
    """Return strings that look like secrets: file, line, kind, and SHA-1 for ``allowed.yaml``."""
    found = []
    with default_settings():
        for name in names:
            lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
            for secret in scan_file(name):
                if name.startswith("cache_pipeline_tests/") and secret.type in _HEURISTIC_DETECTORS:
                    continue
                if secret.type in _HEURISTIC_DETECTORS and _CHECKSUM.search(lines[secret.line_number - 1]):
                    continue
                found.append((name, secret.line_number, secret.type, secret.secret_hash))
    return sorted(found)


def read_allowed() -> set[tuple[str, str]]:
    """Return the exceptions as pairs of file and SHA-1."""
    entries = yaml.safe_load(_ALLOWED.read_text())
    return {(entry["file"], entry["sha1"]) for entry in entries}


def main(arguments: Sequence[str]) -> int:
    """Print strings that look like secrets and are not allowed. Return 1 if there are any, else 0."""
    found = find_suspects(arguments or scanned_files())
    leaks = [each for each in found if (each[0], each[3]) not in read_allowed()]
    for name, line, kind, sha1 in leaks:
        print(
            f"{name}:{line}: looks like a secret ({kind}); if it is not one, add it to {_ALLOWED.name} with the reason: sha1 {sha1}"
        )
    return 1 if leaks else 0


def sha1_of(secret: str) -> str:
    """Return the SHA-1 of a secret, as in ``allowed.yaml``."""
    return hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

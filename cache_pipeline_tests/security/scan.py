"""``python -m cache_pipeline_tests.security.scan``: no file that git knows may hold what looks like a secret.

What is allowed all the same stands in ``allowed.yaml``, each with why. In the tests every password and key is made up, so there
only what has the form of a real one counts: private keys, and the keys of known services.
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
#: Locked requirements are long lists of hashes; pictures are no text.
_LEFT_OUT = ("requirements.txt", "requirements-dev.txt")
_NO_TEXT = {".png", ".woff2", ".parquet", ".gz"}
#: What goes by the look of a word, not by the form of a key.
_GUESSING = {"Secret Keyword", "Basic Auth Credentials", "Base64 High Entropy String", "Hex High Entropy String"}
#: As a Content-Security-Policy or an integrity attribute writes it.
_CHECKSUM = re.compile(r"sha(256|384|512)-")


def known_files() -> list[str]:
    """Every file that git tracks."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if name not in _LEFT_OUT and Path(name).suffix not in _NO_TEXT]


def suspects(names: Iterable[str]) -> list[tuple[str, int, str, str]]:
    """What looks like a secret: file, line, kind, and the SHA-1 by which it may be allowed."""
    found = []
    with default_settings():
        for name in names:
            lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
            for secret in scan_file(name):
                if name.startswith("cache_pipeline_tests/") and secret.type in _GUESSING:
                    continue
                if secret.type in _GUESSING and _CHECKSUM.search(lines[secret.line_number - 1]):
                    continue
                found.append((name, secret.line_number, secret.type, secret.secret_hash))
    return sorted(found)


def allowed() -> set[tuple[str, str]]:
    """What may stand where."""
    entries = yaml.safe_load(_ALLOWED.read_text())
    return {(entry["file"], entry["sha1"]) for entry in entries}


def main(arguments: Sequence[str]) -> int:
    """Say what is there that should not be; exit code 1 where there is something."""
    found = suspects(arguments or known_files())
    leaks = [each for each in found if (each[0], each[3]) not in allowed()]
    for name, line, kind, sha1 in leaks:
        print(f"{name}:{line}: looks like a secret ({kind}); if it is none, say why in {_ALLOWED.name}: sha1 {sha1}")
    return 1 if leaks else 0


def sha1_of(secret: str) -> str:
    """As it stands in the list of what is allowed."""
    return hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

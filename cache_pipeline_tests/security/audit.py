"""``python -m cache_pipeline_tests.security.audit``: known vulnerabilities of everything that is locked.

Exit code 0 where all was looked up and nothing is known, 1 where something is, 3 where the advisory service cannot be asked:
then nothing was audited, and it says so.
"""

import json
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_LOCKED = "requirements-dev.txt"
#: The one service that gives advisories and nothing else; a package index may have none and not say so.
_SERVICE = "osv"
NOT_AUDITED = 3


def main() -> int:
    """Audit what is locked."""
    command = [sys.executable, "-m", "pip_audit", "-r", _LOCKED, "--disable-pip", "--require-hashes", "-s", _SERVICE]
    audited = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off", "--timeout", "15"],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return verdict(audited.stdout, audited.stderr)


def verdict(said: str, errors: str) -> int:
    """What came of it; only an answer about every package counts."""
    try:
        packages = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = errors.strip().splitlines()[-1] if errors.strip() else "no answer"
        print(f"NOT AUDITED: the advisory service ({_SERVICE}) cannot be asked: {reason}")
        return NOT_AUDITED
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        print(f"NOT AUDITED: nothing could be learned of {', '.join(skipped) or 'any package'}")
        return NOT_AUDITED
    known = [(package, each) for package in packages for each in package["vulns"]]
    for package, each in known:
        mended = ", ".join(each["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {each['id']}, mended in {mended}")
    print(f"{len(packages)} packages audited, {len(known)} known vulnerabilities")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())

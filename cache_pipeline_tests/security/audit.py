"""Look up known vulnerabilities of all locked packages: ``python -m cache_pipeline_tests.security.audit``.

Exits with 0 if all packages were looked up and none has a known vulnerability, 1 if one has, and 3 if the advisory service cannot be
reached. In that case nothing was audited, and the output says so.
"""

import json
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_REQUIREMENTS = "requirements-dev.txt"
#: A service dedicated to advisories. A package index may have no advisories without saying so.
_SERVICE = "osv"
NOT_AUDITED = 3


def main() -> int:
    """Audit the locked packages and return the exit code."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "-r",
        _REQUIREMENTS,
        "--disable-pip",
        "--require-hashes",
        "-s",
        _SERVICE,
    ]
    audited = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off", "--timeout", "15"],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return print_result(audited.stdout, audited.stderr)


def print_result(output: str, errors: str) -> int:
    """Print the result of the audit and return the exit code. Only an answer about every package counts."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = errors.strip().splitlines()[-1] if errors.strip() else "no answer"
        print(f"NOT AUDITED: the advisory service ({_SERVICE}) cannot be reached: {reason}")
        return NOT_AUDITED
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        print(f"NOT AUDITED: no answer about {', '.join(skipped) or 'any package'}")
        return NOT_AUDITED
    known = [(package, each) for package in packages for each in package["vulns"]]
    for package, each in known:
        fixed = ", ".join(each["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    print(f"{len(packages)} packages audited, {len(known)} known vulnerabilities")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())

"""Find programs of the operating system that some tests run: a browser, a broker, web caches."""

import os
import shutil

import pytest


def find_program(*names: str) -> str:
    """Return the path of the first of these programs that is installed.

    If none is, the test is skipped on a developer's machine and fails in CI, which must run every test.
    """
    for name in names:
        # Daemons are in folders that an ordinary user's PATH does not contain.
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    message = f"{' or '.join(names)} is not installed: .ci/run shows what to install"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)

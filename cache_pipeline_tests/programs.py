"""Find programs of the operating system that some tests run: a browser, a broker, web caches."""

import os
import shutil

import pytest


def locate_program(*names: str) -> str | None:
    """Return the path of the first of these programs that is installed, or None."""
    # Daemons are in folders that an ordinary user's PATH does not contain.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def find_program(*names: str) -> str:
    """Return the path of the first of these programs that is installed.

    If none is, the test is skipped on a developer's machine and fails in CI, which must run every test.
    """
    found = locate_program(*names)
    if found is not None:
        return found
    message = f"{' or '.join(names)} is not installed: .ci/run shows what to install"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)

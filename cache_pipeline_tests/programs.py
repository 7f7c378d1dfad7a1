"""Programs of the operating system that some tests run for real: a browser, a broker, web caches."""

import os
import shutil

import pytest


def program(*names: str) -> str:
    """The path of the first of these programs that is installed.

    Where none is, the test is skipped on a person's machine and fails in CI, which must run everything.
    """
    for name in names:
        # Daemons lie in folders that a plain user's PATH leaves out.
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    told = f"{' or '.join(names)} is not installed: .ci/run shows what to install"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)

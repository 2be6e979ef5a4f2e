"""Programs that some tests need and that Python's packages do not bring."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """The path of the program. Where it is missing the test is skipped, and fails on a machine for CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"no {name} on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path

"""The scripts of deploy/ are no package; tests import them by the folder's path."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))


@pytest.fixture(scope="session")
def needed():
    """A program from a Debian package: where continuous integration runs, a missing one is a failure."""

    def find(name):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found is None and os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must not skip it: make system-packages")
        if found is None:
            pytest.skip(f"{name} is not installed: make system-packages")
        return found

    return find

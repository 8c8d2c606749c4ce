"""The notebooks run from top to bottom, and stand in the repository without outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)

# In a process of its own: the client leaves sockets to the garbage collector, an error here. The kernel is this
# interpreter, whatever kernels a user has registered.
EXECUTE = """
import sys
import nbformat
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
manager = KernelManager()
manager._kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, km=manager, timeout=300).execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_there_is_a_notebook():
    assert "experiment.ipynb" in {path.name for path in NOTEBOOKS}


@notebook
def test_notebooks_are_kept_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@notebook
def test_notebooks_run(path, tmp_path):
    environment = os.environ | {"FEDRECALL_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = tmp_path / "done.ipynb"
    ran = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path), str(done)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    shown = str([cell.get("outputs") for cell in nbformat.read(done, as_version=4).cells])
    assert "epsilon none" in shown
    assert "not_covered" in shown
    assert "image/png" in shown
    assert list(tmp_path.glob("fedrecall-*/epsilon-2/report.html"))

"""What a command imports before it knows what it is to do: nothing that takes long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from simulations.benchmarks.startup import PROGRAMS, commands

# What typer brings, and what its help texts are set in.
LIGHT = {"attr", "attrs", "click", "markdown_it", "mdurl", "pygments", "rich", "shellingham", "typer"}
OWN = {"client", "server", "shared", "simulations"}
SCRIPT = """
import contextlib, importlib, io, json, sys
before = {name.split(".")[0] for name in sys.modules}
app = importlib.import_module(sys.argv[1]).app
asked = json.loads(sys.argv[2])
found = {}
for words in asked:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        app([*words, "--help"], standalone_mode=False)
    now = {name.split(".")[0] for name in sys.modules}
    found[" ".join(words)] = ["Usage" in said.getvalue(), sorted(now - before - set(sys.stdlib_module_names))]
    before |= now
print(json.dumps(found))
"""


@pytest.mark.parametrize(("program", "module"), PROGRAMS.items())
def test_the_help_of_no_command_imports_what_takes_long(program, module):
    asked = commands(module)
    call = [sys.executable, "-c", SCRIPT, module, json.dumps(asked)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert len(found) == len(asked) > 3
    assert all(helped for helped, _ in found.values())
    imported = {words: set(names) - LIGHT - OWN for words, (_, names) in found.items()}
    assert {words: names for words, names in imported.items() if names} == {}, program

"""The committed examples of an audit: one passes, three do not, and they can be made again."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from shared.audit.reading import read_evidence
from shared.audit.verify import verify

EXAMPLES = Path(__file__).parents[2] / "docs" / "audit-examples"
CAUGHT = {
    "good": None,
    "edited-epsilon": (1, "claim-is-bound"),
    "dropped-line": (7, "chain-server"),
    "above-k": (2, "participations"),
}


def script():
    spec = importlib.util.spec_from_file_location("make_examples", EXAMPLES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(run):
    report = verify(read_evidence(run, keys=run / "keys.toml"))
    return report.exit_code, {(f.clause, f.check) for f in report.findings if f.outcome == "fail"}


def right(run, name):
    code, failed = found(run)
    expected = CAUGHT[name]
    return (code, failed) == (0, set()) if expected is None else code == 3 and expected in failed


def test_these_are_the_examples_and_they_are_small():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(CAUGHT)
    files = [path for name in CAUGHT for path in (EXAMPLES / name).iterdir()]
    assert {path.name for path in files} == set(script().KEPT)
    assert sum(path.stat().st_size for path in files) < 200_000


@pytest.mark.parametrize("name", CAUGHT)
def test_an_example_is_found_to_be_what_its_name_says(name):
    assert right(EXAMPLES / name, name)


def test_examples_name_no_place_and_no_person():
    for name in CAUGHT:
        for path in (EXAMPLES / name).iterdir():
            assert not re.search(r"/(?:tmp|home|root|work|usr)/|i\d+ for house", path.read_text(encoding="utf-8")), path


def test_they_can_be_made_again_by_one_command(tmp_path):
    script().make(tmp_path)
    for name in CAUGHT:
        assert right(tmp_path / name, name)
        assert {path.name for path in (tmp_path / name).iterdir()} == set(script().KEPT)

"""The mutation list cannot rot: every patch applies, every named test exists, the documentation shows the same list.

`make mutations` runs the mutations themselves; here only their judge is tested, on a tree of one function.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARKS = ("<!-- mutations: begin -->", "<!-- mutations: end -->")


def script():
    spec = importlib.util.spec_from_file_location("mutations_script", ROOT / "tests" / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutations = script()
LISTED = mutations.load()
each = pytest.mark.parametrize("mutation", LISTED, ids=lambda mutation: mutation.name)


@each
def test_every_mutation_still_applies_and_changes_the_program(mutation):
    changed = mutations.mutated(mutation, ROOT)
    before = (ROOT / mutation.file).read_text("utf-8")
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(before))


@each
def test_every_named_test_exists(mutation):
    assert mutation.tests
    for test in mutation.tests:
        file, *names = test.split("::")
        text = (ROOT / file).read_text("utf-8")
        assert names, "a whole file says nothing about which test is meant"
        for name in names:
            assert re.search(rf"^\s*(?:def|class) {name}\b", text, flags=re.MULTILINE), f"{file} has no {name}"


def test_no_two_mutations_share_a_name_or_break_the_same_place_in_the_same_way():
    assert len({mutation.name for mutation in LISTED}) == len(LISTED)
    assert len({(mutation.file, mutation.old, mutation.new) for mutation in LISTED}) == len(LISTED)


def test_the_documentation_shows_the_list():
    text = (ROOT / "docs" / "privacy.md").read_text("utf-8")
    shown = text.partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    assert shown == mutations.markdown(LISTED), "put the output of `python tests/mutations.py --markdown` there"


# --- the judge

SOURCE = "def largest(clip):\n    return 2 * clip\n"
CHECK = "from source import largest\n\n\ndef test_it():\n    assert largest(3) == 6\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "tests" / "test_it.py").write_text(CHECK)
    (tmp_path / "tests" / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    return tmp_path


def mutation(**changes):
    said = {"name": "m", "invariant": "i", "file": "source.py", "old": "2 *", "new": "3 *"}
    return mutations.Mutation(**said | {"tests": ("tests/test_it.py::test_it",)} | changes)


def test_a_test_that_notices_is_named_and_the_tree_stays_as_it_was(tree):
    assert mutations.judge(mutation(), tree).test == "tests/test_it.py::test_it"
    assert (tree / "source.py").read_text() == SOURCE


def test_a_mutation_that_no_test_notices_survives(tree):
    verdict = mutations.judge(mutation(tests=("tests/test_nothing.py::test_nothing",)), tree)
    assert (verdict.test, verdict.why) == (None, "its tests pass")


def test_tests_that_cannot_run_have_noticed_nothing(tree):
    for changes in ({"tests": ("tests/test_it.py::test_gone",)}, {"old": "largest", "new": "smallest"}):
        verdict = mutations.judge(mutation(**changes), tree)
        assert verdict.test is None
        assert verdict.why.startswith("its tests did not run")


def test_a_test_that_fails_because_the_machine_is_slow_has_noticed_nothing(tree):
    slow = "import hypothesis.errors\n\n\ndef test_slow():\n    raise hypothesis.errors.FailedHealthCheck('slow')\n"
    (tree / "tests" / "test_slow.py").write_text(slow)
    verdict = mutations.judge(mutation(tests=("tests/test_slow.py::test_slow",)), tree)
    assert verdict.test is None
    assert "not for this" in verdict.why


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"old": "4 *"}, "stands 0 times in source.py"),
        ({"old": "clip"}, "stands 2 times in source.py"),
        ({"file": "gone.py"}, "stands 0 times in gone.py"),
        ({"new": "2 * ("}, "would be no Python"),
    ],
)
def test_a_mutation_that_does_not_apply_fails_loudly(tree, changes, sentence):
    with pytest.raises(mutations.MutationError, match=sentence):
        mutations.judge(mutation(**changes), tree)


def written(tree, *entries):
    path = tree / "list.toml"
    rows = [
        f'[[mutation]]\nname = "{name}"\ninvariant = "i"\nfile = "source.py"\nold = "2 *"\nnew = "{new}"\n'
        f'tests = ["tests/test_it.py::test_it"]\n'
        for name, new in entries
    ]
    path.write_text("\n".join(rows))
    return path


def test_the_command_fails_when_one_mutation_survives(tree, capfd):
    path = written(tree, ("noticed", "3 *"), ("lived", "(1 + 1) *"))
    assert mutations.main([], root=tree, path=path) == 1
    out = capfd.readouterr().out
    assert "1 of 2 mutations were noticed" in out
    assert "NOBODY" in out
    assert mutations.main(["noticed"], root=tree, path=path) == 0
    assert mutations.main(["unheard of"], root=tree, path=path) == 2


def test_a_tree_whose_tests_fail_anyway_proves_nothing(tree, capfd):
    path = written(tree, ("noticed", "3 *"))
    (tree / "source.py").write_text(SOURCE.replace("2 *", "1 + 2 *"))
    assert mutations.main([], root=tree, path=path) == 2
    assert "fail before anything is broken" in capfd.readouterr().err


def test_an_entry_with_another_field_is_refused(tree):
    path = written(tree, ("noticed", "3 *"))
    path.write_text(path.read_text() + 'reason = "none"\n')
    with pytest.raises(mutations.MutationError, match="reason"):
        mutations.load(path)

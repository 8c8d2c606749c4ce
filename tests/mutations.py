"""Break each invariant on purpose, in a copy of the tree, and show that a test notices.

    python tests/mutations.py                  all of them; exit code 1 if one survives
    python tests/mutations.py "clip doubled"   only these
    python tests/mutations.py --markdown       the list in docs/privacy.md

The list is tests/mutations.toml: one text replaced by another in one file, and the tests that must notice. Every
mutation gets a fresh copy of the tree. The same tests must pass on a copy that nobody broke, or nothing is proven.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parents[1]
LIST: Final = Path(__file__).with_suffix(".toml")
COPIED: Final = ("client", "server", "shared", "simulations", "tests", "docs")
PATIENCE: Final = 180  # seconds for one mutation's tests
PASSED, FAILED = 0, 1  # pytest's exit codes; any other means that the tests did not run
TOOL: Final = re.compile(r" - (?:hypothesis\.errors\.|DeadlineExceeded|Flaky)")  # a slow machine, not a noticing test
FIELDS: Final = {"name", "invariant", "file", "old", "new", "tests"}


class MutationError(Exception):
    """A mutation that cannot be made or judged; the list is out of date."""


@dataclass(frozen=True)
class Mutation:
    """One invariant, broken in one place.

    Attributes:
        name: what is broken.
        invariant: the sentence that no longer holds then.
        file: path of the file, from the root.
        old, new: the text replaced, and by what.
        tests: pytest's node ids that must notice, any one of them.
    """

    name: str
    invariant: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutation; ``test`` names the test that noticed, None = it survived, and why."""

    mutation: Mutation
    test: str | None
    why: str = ""


def load(path: Path = LIST) -> list[Mutation]:
    """The list.

    Raises:
        MutationError: an entry with other fields than those of a mutation.
    """
    entries = tomllib.loads(path.read_text("utf-8"))["mutation"]
    for entry in entries:
        if set(entry) != FIELDS:
            raise MutationError(f"{path.name}: {entry.get('name')!r} has fields {sorted(entry)}, not {sorted(FIELDS)}")
    return [Mutation(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def mutated(mutation: Mutation, root: Path) -> str:
    """The file's text with the mutation in it.

    Raises:
        MutationError: the old text does not stand there exactly once, or the new one is no Python.
    """
    path = root / mutation.file
    text = path.read_text("utf-8") if path.is_file() else ""
    found = text.count(mutation.old)
    if found != 1:
        raise MutationError(f"{mutation.name!r}: its text stands {found} times in {mutation.file}, expected once")
    changed = text.replace(mutation.old, mutation.new)
    try:
        compile(changed, mutation.file, "exec")
    except SyntaxError as error:
        raise MutationError(f"{mutation.name!r}: {mutation.file} would be no Python: {error}") from error
    return changed


def copy_tree(root: Path, target: Path) -> None:
    """What tests need, bytecode included, and nothing else: no environment, no runs."""
    target.mkdir()
    for path in root.iterdir():
        if path.is_dir() and path.name in COPIED:
            shutil.copytree(path, target / path.name)
        elif path.is_file():
            shutil.copy2(path, target / path.name)


def pytest_in(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Exit code and output of some tests of a tree, stopped at the first failure; the tree comes first on the path."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    # With CI set Hypothesis draws the same examples every time and does not mind a slow machine.
    quiet = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "1", "COLUMNS": "200"}
    env = os.environ | quiet | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE, errors="replace"
    )
    return done.returncode, done.stdout + done.stderr


def judge(mutation: Mutation, root: Path) -> Verdict:
    """Break a copy of the tree and let its tests look; tests that could not even run have noticed nothing.

    Raises:
        MutationError: the mutation does not apply.
    """
    changed = mutated(mutation, root)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(root, tree)
        (tree / mutation.file).write_text(changed, "utf-8")
        try:
            code, output = pytest_in(tree, mutation.tests)
        except subprocess.TimeoutExpired:
            return Verdict(mutation, None, f"its tests had not ended after {PATIENCE} seconds")
    if code == PASSED:
        return Verdict(mutation, None, "its tests pass")
    failed = re.search(r"^FAILED (.*)$", output, flags=re.MULTILINE)
    if code != FAILED or failed is None:
        return Verdict(mutation, None, f"its tests did not run, pytest exit code {code}:\n{output[-1500:]}")
    if TOOL.search(failed[1]):
        return Verdict(mutation, None, f"a test failed, but not for this: {failed[1]}")
    return Verdict(mutation, failed[1].partition(" - ")[0])


def check_unbroken(mutations: Sequence[Mutation], root: Path) -> None:
    """The tests of the list pass on a copy that nobody broke.

    Raises:
        MutationError: they do not.
    """
    tests = dict.fromkeys(test for mutation in mutations for test in mutation.tests)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy_tree(root, Path(folder) / "tree")
        code, output = pytest_in(Path(folder) / "tree", tests)
    if code != PASSED:
        raise MutationError(f"the tests fail before anything is broken:\n{output[-3000:]}")


def check(mutations: Sequence[Mutation], root: Path, tell: Callable[[Verdict], None]) -> list[Verdict]:
    """All verdicts, in the order of the list; two at a time where there are two cores."""

    def one(mutation: Mutation) -> Verdict:
        verdict = judge(mutation, root)
        tell(verdict)
        return verdict

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        unbroken = pool.submit(check_unbroken, mutations, root)
        verdicts = list(pool.map(one, mutations))
        unbroken.result()
    return verdicts


def markdown(mutations: Iterable[Mutation]) -> str:
    """The section of docs/privacy.md."""
    rows = ["| broken on purpose | what no longer holds | in | noticed by |", "|---|---|---|---|"]
    for mutation in mutations:
        tests = ", ".join(f"`{test.rpartition('::')[2]}`" for test in mutation.tests)
        rows.append(f"| {mutation.name} | {mutation.invariant} | `{mutation.file}` | {tests} |")
    return "\n".join(rows)


def shown(verdicts: Iterable[Verdict]) -> Table:
    """The table for a person."""
    table = Table("broken on purpose", "what no longer holds", "noticed by")
    for verdict in verdicts:
        test = verdict.test or f"NOBODY: {verdict.why.partition(chr(10))[0]}"
        table.add_row(verdict.mutation.name, verdict.mutation.invariant, test.rpartition("/")[2], style=_style(verdict))
    return table


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT, path: Path = LIST) -> int:
    """The command; 0 = every mutation was noticed, 1 = one survived, 2 = the list itself is broken."""
    parser = argparse.ArgumentParser(description="Break each invariant on purpose and show that a test notices.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutations")
    parser.add_argument("--markdown", action="store_true", help="print the list for docs/privacy.md and run nothing")
    asked = parser.parse_args(arguments)
    console, progress = Console(width=160, highlight=False), Console(stderr=True, highlight=False)
    try:
        mutations = load(path)
        if asked.markdown:
            console.file.write(markdown(mutations) + "\n")
            return 0
        chosen = _chosen(mutations, asked.names)
        verdicts = check(chosen, root, lambda verdict: progress.print(_line(verdict), markup=False, soft_wrap=True))
    except MutationError as error:
        progress.print(str(error), markup=False, soft_wrap=True)
        return 2
    console.print(shown(verdicts))
    survived = sum(verdict.test is None for verdict in verdicts)
    console.print(f"{len(verdicts) - survived} of {len(verdicts)} mutations were noticed")
    return 1 if survived else 0


def _chosen(mutations: Sequence[Mutation], names: Sequence[str]) -> Sequence[Mutation]:
    known = {mutation.name: mutation for mutation in mutations}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MutationError(f"no mutation is called {unknown[0]!r}; known are: {', '.join(known)}")
    return [known[name] for name in names] if names else mutations


def _line(verdict: Verdict) -> str:
    return f"{verdict.mutation.name}: {verdict.test or 'NOBODY noticed: ' + verdict.why}"


def _style(verdict: Verdict) -> str:
    return "" if verdict.test else "bold red"


if __name__ == "__main__":
    sys.exit(main())

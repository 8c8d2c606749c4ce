"""docs/source-map.md leads from each step of the source text to code, test and number, and all of them exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "source-map.md"
STEPS = (
    *("Squared error on ratings", "Cosine, dot, Euclidean", "R = S·W", "Similarity of a query to the catalogue"),
    *("Recall is low", "Coverage is low", "Incremental updates", "Warm-up and learning rate", "LoRA", "Adaptation"),
    *("Mixed precision", "Pruning", "int8", "Feature extraction", "Iterative optimisation", "Real-time update"),
    *("Low latency and cost", "Diverse and fair", "Private and secure", "Explainable"),
)
REFERENCE = re.compile(r"`((?:client|server|shared|simulations|tests|docs)/[\w/.\-]+)(?:::([\w.]+))?`")


@cache
def names_in(path: Path) -> frozenset[str]:
    """Everything that a module defines: functions, classes and constants, and what classes define as Class.name."""
    return frozenset(defined(ast.parse(path.read_text("utf-8"))))


def defined(node: ast.AST, prefix: str = "") -> set[str]:
    out: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            out.add(prefix + child.name)
            if isinstance(child, ast.ClassDef):
                out |= defined(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            out |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return out


def missing(text: str) -> list[str]:
    """References in a text that lead nowhere."""
    out = []
    for path, name in REFERENCE.findall(text):
        file = ROOT / path
        if not file.exists() or (name and (file.suffix != ".py" or name not in names_in(file))):
            out.append(f"{path}::{name}" if name else path)
    return out


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of every line of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| step")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_everything_that_is_named_exists():
    assert missing(PAGE.read_text("utf-8")) == []


@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_the_text_has_code_a_test_and_a_number(step):
    code, test, number = rows(PAGE.read_text("utf-8"))[step]
    assert any(not path.startswith("tests/") for path, _ in REFERENCE.findall(code)), f"{step}: no code"
    assert any(path.startswith("tests/") and name for path, name in REFERENCE.findall(test)), f"{step}: no test"
    assert re.search(r"\d", number), f"{step}: no number"
    assert "`" in number, f"{step}: no command"


def test_no_row_is_about_something_else():
    assert set(rows(PAGE.read_text("utf-8"))) == set(STEPS)


def test_it_says_why_w_weighs_groups():
    assert "feature groups" in PAGE.read_text("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "`shared/recall/scoring.py::no_such_function`",
        "`shared/no_such_file.py`",
        "`tests/docs/test_source_map.py::test_of_nothing`",
        "`docs/source-map.md::heading`",
    ],
)
def test_what_does_not_exist_is_noticed(text):
    assert missing(text) != []


def test_what_exists_is_found():
    known = "`shared/recall/scoring.py::similarity` `shared/recall/metrics.py::RankingSums.merge` `docs/adr`"
    assert missing(known) == []

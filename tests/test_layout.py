"""The repository's shape: what would otherwise be an agreement between people is checked here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("client", "server", "shared", "simulations")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FILE_LIMIT = 500
FUNCTION_LIMIT = 60
HEAVY = {"torch", "transformers", "flwr", "opacus", "sklearn", "pyarrow", "matplotlib", "ray", "dp_accounting"}

source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_the_four_packages_are_found():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)
    assert len(SOURCES) > 40


def test_no_package_under_tests_shadows_a_package_under_test():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@source
def test_source_validates_with_errors_and_not_with_assert(path):
    found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
    assert found == [], f"assert in lines {found}: python -O removes it"


@source
def test_source_files_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "no module docstring"


@source
def test_source_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LIMIT
    long = {f.name: lines_of(f) for f in functions(ast.parse(text)) if lines_of(f) > FUNCTION_LIMIT}
    assert long == {}


PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}
# Files that lean on private names of Flower, and the tests that hold these names against the Flower that is installed.
ADAPTERS = {
    "client/fleet_link.py": "tests/client/test_fleet_link.py",  # the Fleet API, as a device speaks it
    "server/flower_grid.py": "tests/server/test_flower_grid.py",  # the grid of a ServerApp
    "server/superlink.py": "tests/server/test_supervisor.py",  # the Control API
    "shared/wire.py": "tests/shared/test_wire.py",  # objects and serialisation
    "simulations/engine.py": "tests/simulations/test_engine.py",  # a grid in this process
    "simulations/benchmarks/flower_secagg.py": "tests/simulations/benchmarks/test_secagg.py",  # what is compared with
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)


@source
def test_private_names_of_flower_are_leaned_on_in_adapters_alone(path):
    private = {name for name in imported(path) if name.split(".")[0] == "flwr" and name not in PUBLIC}
    where = str(path.relative_to(ROOT))
    assert (private == set()) == (where not in ADAPTERS), f"{where} imports {sorted(private)}"


@pytest.mark.parametrize(("adapter", "contract"), ADAPTERS.items())
def test_each_adapter_has_its_contract_tested(adapter, contract):
    assert Path(adapter).stem in (ROOT / contract).read_text()


def test_no_other_distribution_owns_the_top_level_names():
    owners = metadata.packages_distributions()
    strangers = {name: owner for name in PACKAGES for owner in owners.get(name, ()) if owner != "fedrecall"}
    assert strangers == {}


def test_the_packages_come_from_this_checkout():
    for name in PACKAGES:
        module = __import__(name)
        assert Path(str(module.__file__)).is_relative_to(ROOT)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "--no-such-option"]])
def test_asking_for_help_does_not_wait_for_heavy_libraries(arguments):
    script = (
        "import sys\n"
        "from simulations.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.splitlines()[-1].removeprefix("loaded: ").split())
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_the_documented_entry_points_are_there():
    scripts = metadata.distribution("fedrecall").entry_points.select(group="console_scripts")
    assert "fedrecall-sim" in {script.name for script in scripts}


def test_ci_runs_what_developers_run():
    run = (ROOT / ".ci" / "run").read_text()
    assert "make test" in run
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool in ("ruff check", "ruff format", "mypy", "lint-imports"):
        assert f".venv/bin/{tool}" in hooks
    assert "repo: local" in hooks
    assert hooks.count("repo: ") == 1, "hooks from elsewhere would need a network and could disagree with .venv"

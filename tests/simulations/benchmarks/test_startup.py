from __future__ import annotations

import pytest
from rich.console import Console

from shared.errors import RunError
from simulations.benchmarks import startup
from simulations.benchmarks.startup import PROGRAMS, commands


def test_commands_of_groups_are_found():
    found = commands("simulations.cli")
    assert {(), ("run",), ("bench",), ("bench", "startup")} <= set(found)
    assert len(found) == len(set(found))


def test_the_slowest_command_is_named_and_bars_are_judged(monkeypatch):
    seconds = {("run",): 0.6, (): 0.1}
    monkeypatch.setattr(startup, "PROGRAMS", {"fedrecall-sim": "simulations.cli"})
    monkeypatch.setattr(startup, "commands", lambda _module: list(seconds))
    monkeypatch.setattr(startup, "_help_taken", lambda _, words: {"seconds": seconds[words], "cpu_seconds": 0.2})
    runs = iter([99.0, 3.0, 5.0, 4.0])  # the first fills the cache and does not count
    monkeypatch.setattr(startup, "_first_task", lambda: {"seconds": next(runs), "cpu_seconds": 2.0})
    result = startup.measure(lambda _sentence: None)
    assert [(bar["value"], bar["met"]) for bar in result["bars"]] == [(0.6, False), (4.0, True)]
    console = Console(record=True, width=140)
    startup.show(result, console)
    said = console.export_text()
    assert "0.60" in said
    assert "0.20" in said
    assert "run" in said
    assert "to its first task: 4 ±25% s, of the processor 2" in said


def test_every_program_of_the_package_is_asked():
    from importlib import metadata

    scripts = metadata.distribution("fedrecall").entry_points.select(group="console_scripts")
    assert {script.name: script.value.partition(":")[0] for script in scripts} == PROGRAMS


def test_the_measured_process_stops_at_the_first_task(monkeypatch, tiny_data, tmp_path):
    from simulations import cli, engine

    sets = ["model.text_encoder=none", "model.rank=4", "privacy.delta=1e-3", "policy.k=10", "secure_aggregation=ideal"]
    words = ["run", "synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "a"), "--quiet"]
    words += [part for one in sets for part in ("--set", one)]
    real = cli.app
    monkeypatch.setattr(cli, "app", lambda _words, **options: real(words, **options))
    monkeypatch.setattr(engine.InProcessGrid, "push_messages", engine.InProcessGrid.push_messages)
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))
    assert startup._until_first_task(str(tmp_path / "a"), 0.0)["cpu_seconds"] > 0
    assert (tmp_path / "a" / "ledger.jsonl").exists()
    assert not (tmp_path / "a" / "rounds.jsonl").exists()


def test_a_command_that_fails_is_no_figure():
    with pytest.raises(RunError, match=r"python -m simulations\.cli no-such-command --help ended with 2"):
        startup._help_taken("simulations.cli", ("no-such-command",))

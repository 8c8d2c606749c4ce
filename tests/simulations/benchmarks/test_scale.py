"""The benchmarks of memory and scale: sizes that differ in one thing, fits that say how a figure grows, bars."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from rich.console import Console
from typer.testing import CliRunner

from shared.errors import RunError
from simulations.bench_cli import bench_app
from simulations.benchmarks import measure, scale, scale_table
from simulations.download import silent
from simulations.sized import Size


def figures(size, *, seconds=None, peak=500.0, own=400.0, up=32_000.0):
    """What a size would measure if all went as the design says."""
    return {
        **asdict(size),
        "parameters": 8_000,
        "prepare_seconds": 1.5,
        "seconds_round0": 2.0,
        "seconds_measured_round": 4.0,
        "seconds_round": 0.003 * size.cohort if seconds is None else seconds,
        "cpu_seconds_round": 0.002 * size.cohort,
        "bytes_up_client": up,
        "bytes_down_client": 40_000.0,
        "peak_rss_mb": peak,
        "own_peak_mb": own,
        "history_bytes": 10.0 * size.users,
    }


@pytest.fixture
def measured(monkeypatch):
    """Puts figures in the place of processes; a list of the sizes that were asked for."""
    asked = []

    def put(made=figures):
        def in_child(module, raw):
            assert module == scale.THIS
            asked.append(Size(**json.loads(raw)))
            return json.loads(json.dumps(made(asked[-1])))

        monkeypatch.setattr(scale, "in_child", in_child)
        return asked

    return put


def grown(result, what):
    return next(fit for fit in result["fits"] if what in fit["what"])


def test_populations_grow_and_nothing_else_does(measured):
    asked = measured()
    result = scale.measure_memory(silent)
    assert [size.users for size in asked] == [1_000, 10_000, 100_000, 1_000_000]
    assert len({(size.items, size.cohort, size.rounds, size.trust) for size in asked}) == 1
    assert [bar["met"] for bar in result["bars"]] == [True]


def test_memory_that_grows_with_the_population_misses_its_bar(measured):
    measured(lambda size: figures(size, own=100.0 + size.users * 0.001))
    result = scale.measure_memory(silent)
    fit = grown(result, "own memory")
    assert fit["each"] == pytest.approx(1000.0)  # bytes a user
    assert fit["times"] == pytest.approx(1100 / 101)
    assert [bar["met"] for bar in result["bars"]] == [False]


def test_cohorts_then_catalogues_grow_and_nothing_else_does(measured):
    asked = measured()
    scale.measure_scale(silent)
    cohorts, items = asked[:3], asked[3:]
    assert [size.cohort for size in cohorts] == [1_000, 3_000, 10_000]
    assert {size.users for size in cohorts} == {1_000_000}
    assert [size.items for size in items] == [1_000, 10_000, 100_000, 1_000_000]
    assert len({(size.users, size.cohort) for size in items}) == 1


def test_what_the_design_says_meets_every_bar(measured):
    measured()
    result = scale.measure_scale(silent)
    assert grown(result, "round with cohort")["exponent"] == pytest.approx(1.0)
    assert grown(result, "round with cohort")["each"] == pytest.approx(3000.0)  # microseconds a client
    assert grown(result, "uplink")["exponent"] == pytest.approx(0.0, abs=1e-12)
    assert [bar["met"] for bar in result["bars"]] == [True] * 6


@pytest.mark.parametrize(
    ("missed", "made"),
    [
        (0, lambda size: figures(size, seconds=0.0061 * size.cohort)),
        (1, lambda size: {**figures(size), "seconds_round0": 60.0}),
        (2, lambda size: {**figures(size), "seconds_measured_round": 60.0}),
        (3, lambda size: figures(size, peak=4_000.0)),
        (4, lambda size: figures(size, seconds=1e-6 * size.cohort**1.5)),
        (5, lambda size: figures(size, up=32_000.0 + size.items)),
    ],
)
def test_what_is_slower_larger_steeper_or_wider_misses_its_own_bar(measured, missed, made):
    measured(made)
    bars = scale.measure_scale(silent)["bars"]
    assert [number for number, bar in enumerate(bars) if not bar["met"]] == [missed]


@pytest.mark.parametrize("up", [0.0, float("nan")])
def test_rounds_without_updates_are_no_figure(measured, up):
    measured(lambda size: figures(size, up=up))
    with pytest.raises(RunError, match="1,000 users, 10,000 items: no update arrived"):
        scale.measure_memory(silent)


def test_a_power_is_fitted_and_so_is_a_line():
    rows = [{"n": 1.0, "s": 3.0}, {"n": 10.0, "s": 300.0}, {"n": 100.0, "s": 30_000.0}]
    assert scale.fit_of("s with n", rows, "n", "s", 1.0, "").exponent == pytest.approx(2.0)
    line = [{"n": n, "s": 5.0 + 2.0 * n} for n in (1.0, 2.0, 7.0)]
    assert scale.fit_of("s with n", line, "n", "s", 1e3, "").each == pytest.approx(2000.0)


def test_a_measured_process_prints_the_figures_of_its_size(monkeypatch, capsys, tmp_path):
    def measure_size(size, folder, *, cache, say):
        assert not folder.exists()
        say("progress goes nowhere: the parent reads the output")
        return {"users": size.users, "cohort": size.cohort}

    monkeypatch.setattr(scale, "measure_size", measure_size)
    scale.main(json.dumps(asdict(Size(users=50, items=20, cohort=5))))
    assert json.loads(capsys.readouterr().out) == {
        "users": 50,
        "cohort": 5,
        "own_peak_mb": pytest.approx(measure.peak() / 1e6, rel=0.9),
    }


def test_a_person_reads_sizes_growth_and_bars(measured):
    measured()
    console = Console(record=True, width=150)
    scale_table.show(json.loads(json.dumps(scale.measure_scale(silent))), console)
    text = console.export_text()
    for words in ("1,000,000", "10,000", "microseconds a client", "uplink with catalogue", "load average", "yes"):
        assert words in text


@pytest.mark.parametrize("command", ["memory", "scale"])
def test_the_commands_print_json_and_nothing_else(measured, command):
    measured()
    result = json.loads(CliRunner().invoke(bench_app, [command, "--json"], catch_exceptions=False).output)
    assert set(result) == {"rows", "fits", "bars", "machine", "load_after"}


@pytest.mark.slow
def test_memory_is_flat_and_uplink_constant_for_real():
    """Small sizes, real runs: figures are there, and what must not grow does not."""
    sizes = [Size(users=users, items=500, cohort=50) for users in (500, 20_000)]
    memory = scale.measure_memory(silent, sizes)
    assert memory["bars"][0]["met"], memory["bars"]
    items = [Size(users=500, items=items, cohort=50) for items in (500, 20_000)]
    cohorts = [Size(users=2_000, items=500, cohort=cohort) for cohort in (50, 200)]
    bars = scale.measure_scale(silent, cohorts, items)["bars"]
    assert bars[-1]["met"], bars

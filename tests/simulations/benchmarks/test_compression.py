from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from shared.history import History
from simulations.benchmarks import compression
from simulations.compression_cli import _show

WORDS = "red pen a blue mug for tea and coffee in the morning".split()  # noqa: SIM905 - a sentence


@pytest.fixture(scope="module")
def result(tiny_bert):
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(WORDS, 4)) for _ in range(40))

    def history():
        return History(
            item=rng.choice(40, 8, replace=False).astype(np.int32),
            kind=np.ones(8, np.int8),
            count=np.ones(8, np.float32),
            dwell=np.zeros(8, np.float32),
            rating=np.full(8, np.nan, np.float32),
            time=np.arange(8.0),
            held_out=np.arange(8) >= 6,
        )

    world = SimpleNamespace(catalogue=SimpleNamespace(texts=texts), histories=tuple(history() for _ in range(12)))
    config = SimpleNamespace(preset="tiny", model=SimpleNamespace(text_encoder="tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "load_world", lambda *_args: world)
        patch.setattr(compression, "fetch_encoder", lambda *_args: tiny_bert)
        return compression.measure(config, cache=None, source=None, say=lambda _sentence: None)


def test_every_variant_stands_beside_float32_of_the_same_run(result):
    assert [rows[0]["name"] for rows in (result["models"], result["vectors"])] == ["float32", "float32"]
    assert result["models"][0]["cosine_to_float32"] == pytest.approx(1.0)
    assert result["vectors"][0]["same_top_20"] == 1.0
    assert len({row["name"] for row in result["models"] + result["vectors"]}) == 10
    json.dumps(result)


def test_bytes_say_what_is_saved(result):
    sizes = {row["name"]: row["bytes_per_item"] for row in result["vectors"]}
    assert (sizes["float32"], sizes["float16"], sizes["int8"]) == (64, 32, 16)
    models = {row["name"]: row["bytes"] for row in result["models"]}
    assert models["int8 (dynamic)"] < models["50% of weights pruned"] < models["30% of weights pruned"]
    assert models["30% of weights pruned"] < models["float32"]


def test_pruned_rows_keep_their_largest_coordinates_and_length_one():
    rows = np.array([[0.1, -0.9, 0.2, 0.4], [0.5, 0.5, 0.5, -0.5], [0, 0, 0, 0]], np.float32)
    pruned = compression.pruned_rows(rows, share=0.5)
    assert (pruned[0] != 0).tolist() == [False, True, False, True]
    np.testing.assert_allclose(np.linalg.norm(pruned, axis=1), [1, 1, 0], atol=1e-6)


def test_a_person_reads_two_tables(result):
    console = Console(record=True, width=140, highlight=False)
    _show(result, console)
    shown = console.export_text()
    for name in ("int8 (dynamic)", "bfloat16 (autocast)", "25% of coordinates, float32", "load average"):
        assert name in shown

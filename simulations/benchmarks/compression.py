"""What smaller costs: text model and item vectors at fewer bits or weights, each against float32 in the same run.

A variant of the model reads all texts of the catalogue; a variant of the vectors starts from float32's. Recall is that
of text alone on validation (``simulations/text_ranking.py``), of the plain vectors and of the whitened ones, where
rounding shows more: directions that vary little are scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from server.adaptation import whiten, whitening
from server.basis import unit_rows
from server.compression import int8_encoder, pruned_encoder, stored_bytes
from server.features import read_texts
from shared.encoder.spec import Floats
from shared.history import History
from shared.recall.quantised import dequantise, int8_similarity, quantise
from shared.recall.scoring import similarity
from shared.text_encoder import load_text_encoder
from simulations.benchmarks.measure import machine, one_core, repeated, spread_of
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.fetch import fetch_encoder
from simulations.text_ranking import text_ranking
from simulations.world import load_world

ASKED: Final = 64  # people scored at once when time is taken
TOP: Final = 20
PRUNED: Final = (0.3, 0.5)  # share of the weights
KEPT: Final = (0.5, 0.25)  # share of a vector's coordinates


def measure(config: SimulationConfig, *, cache: Path, source: Path | None, say: Say) -> dict[str, Any]:
    """All variants, one after the other, on one core.

    Args:
        config: names the data and the text model; nothing else of it counts.
        cache, source: as in a run.
        say: gets a sentence a variant.

    Returns:
        JSON: "models" and "vectors", a row a variant, the first of each is float32; "machine".
    """
    before = machine("torch", "transformers", "numpy")
    world = load_world(config, cache, source, say)
    texts, histories = world.catalogue.texts, world.histories
    with one_core():
        tokenizer, encoder = load_text_encoder(fetch_encoder(config.model.text_encoder, cache, say))
        models: list[dict[str, Any]] = []
        for name, model, precision in _models(encoder):
            say(f"text model, {name}: {len(texts):,} texts")
            began = time.process_time()
            vectors = read_texts(texts, tokenizer, model, precision=precision)
            row = {"name": name, "seconds": time.process_time() - began, "bytes": stored_bytes(model)}
            models.append({**row, **_worth(vectors, models[0]["_vectors"] if models else vectors, histories)})
        exact = models[0]["_vectors"]
        rows = [_vectors_row(*variant, exact, histories, say) for variant in _vectors(exact)]
    return {
        "preset": config.preset,
        "items": len(texts),
        "models": [{key: value for key, value in row.items() if key != "_vectors"} for row in models],
        "vectors": rows,
        "machine": asdict(before),
    }


def _models(encoder: Any) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401 - an untyped library's model
    """Name, model and precision of each variant, float32 first; one copy at a time in memory."""
    yield "float32", encoder, "float32"
    yield "bfloat16 (autocast)", encoder, "bfloat16"
    yield "float16 (autocast)", encoder, "float16"
    yield "int8 (dynamic)", int8_encoder(encoder), "float32"
    for share in PRUNED:
        yield f"{share:.0%} of weights pruned", pruned_encoder(encoder, share), "float32"


def _worth(vectors: Floats, exact: Floats, histories: Sequence[History]) -> dict[str, Any]:
    """Recall of text alone, plain and whitened, and how near the vectors are to float32's."""
    white = unit_rows(whiten(vectors, whitening(vectors)))
    found = {"_vectors": vectors, "cosine_to_float32": float((vectors * exact).sum(axis=1).mean())}
    for name, rows in (("plain", vectors), ("whitened", white)):
        ranked = text_ranking(rows, histories)
        found |= {f"{name}_recall@20": ranked["recall@20"], f"{name}_ndcg@10": ranked["ndcg@10"]}
    return found


def _vectors(exact: Floats) -> Iterator[tuple[str, Callable[[Floats], Floats], bool, float]]:
    """Name, what it does to item vectors, whether they are scored as bytes, and bytes an item."""
    width = exact.shape[1]
    yield "float32", lambda rows: rows, False, 4.0 * width
    yield "float16", lambda rows: rows.astype(np.float16).astype(np.float32), False, 2.0 * width
    yield "int8", lambda rows: dequantise(quantise(rows)), True, 1.0 * width
    for share in KEPT:
        # A bit a coordinate says which are there.
        yield (
            f"{share:.0%} of coordinates, float32",
            partial(pruned_rows, share=share),
            False,
            width * (4 * share + 1 / 8),
        )


def pruned_rows(rows: Floats, *, share: float) -> Floats:
    """(n, width) rows with their largest ``share`` of coordinates, the others 0; lengths 1 again."""
    kept = round(share * rows.shape[1])
    bar = np.partition(np.abs(rows), rows.shape[1] - kept, axis=1)[:, rows.shape[1] - kept]
    return unit_rows(np.where(np.abs(rows) >= bar[:, None], rows, 0.0))


def _vectors_row(
    name: str,
    change: Callable[[Floats], Floats],
    as_bytes: bool,
    size: float,
    exact: Floats,
    histories: Sequence[History],
    say: Say,
) -> dict[str, Any]:
    """Whitened vectors, which is how they are best used: recall, lists and time to score against float32."""
    say(f"item vectors, {name}")
    white = unit_rows(whiten(exact, whitening(exact)))
    changed = change(white)
    people = np.stack([white[h.item[~h.held_out]].mean(axis=0) for h in histories if (~h.held_out).any()][:ASKED])
    truth = similarity("cosine", people, white)
    if as_bytes:
        held = quantise(changed)
        scored = partial(int8_similarity, "cosine", people, held)
    else:
        scored = partial(similarity, "cosine", people, changed)
    tops = [np.argsort(-scores, axis=1, kind="stable")[:, :TOP] for scores in (truth, scored())]
    ranked = text_ranking(changed, histories)
    return {
        "name": name,
        "bytes_per_item": size,
        "recall@20": ranked["recall@20"],
        "ndcg@10": ranked["ndcg@10"],
        "same_top_20": float(np.mean([len(np.intersect1d(*pair)) / TOP for pair in zip(*tops, strict=True)])),
        "milliseconds": asdict(spread_of([1e3 * spent / ASKED for spent in repeated(partial(_timed, scored), 7)])),
    }


def _timed(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began

"""``fedrecall-sim bench compression``: what fewer bits and weights cost in recall."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simulations.bench_cli import report
from simulations.options import AsJson, From


def compression_command(
    source: Annotated[str, typer.Argument(metavar="[PRESET|CONFIG.toml]", help="Whose data.")] = "ml-100k",
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """Text model and item vectors at fewer bits or weights, against float32; some minutes."""
    from simulations.benchmarks.compression import measure  # noqa: PLC0415 - heavy
    from simulations.config import resolve  # noqa: PLC0415 - as above
    from simulations.download import cache_folder  # noqa: PLC0415 - as above

    config, cache = resolve(source), cache_folder()
    report(lambda say: measure(config, cache=cache, source=from_, say=say), _show, as_json=as_json)


def _show(result: dict[str, Any], console: Any) -> None:  # noqa: ANN401 - rich is imported late
    from rich.box import SIMPLE  # noqa: PLC0415 - heavy
    from rich.table import Table  # noqa: PLC0415 - as above

    models = Table(title=f"{result['preset']}: the text model, {result['items']:,} texts, one core", box=SIMPLE)
    for name in ("", "MB", "s", "cosine", "recall@20", "ndcg@10", "recall@20\nwhitened", "ndcg@10\nwhitened"):
        models.add_column(name, justify="right" if name else "left")
    for row in result["models"]:
        recalls = [
            f"{row[f'{kind}_{what}']:.4f}" for kind in ("plain", "whitened") for what in ("recall@20", "ndcg@10")
        ]
        size, seconds = f"{row['bytes'] / 1e6:.1f}", f"{row['seconds']:.1f}"
        models.add_row(row["name"], size, seconds, f"{row['cosine_to_float32']:.4f}", *recalls)
    vectors = Table(
        title="item vectors, whitened", box=SIMPLE, caption="same = of float32's top 20; ms = a person's scores"
    )
    for name in ("", "bytes an item", "ms", "same", "recall@20", "ndcg@10"):
        vectors.add_column(name, justify="right" if name else "left")
    for row in result["vectors"]:
        spent = row["milliseconds"]
        vectors.add_row(
            row["name"],
            f"{row['bytes_per_item']:.0f}",
            f"{spent['median']:.3f} ({spent['low']:.3f}-{spent['high']:.3f})",
            f"{row['same_top_20']:.3f}",
            f"{row['recall@20']:.4f}",
            f"{row['ndcg@10']:.4f}",
        )
    console.print(models)
    console.print(vectors)
    where = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    console.print(f"{where['cpu']}, load average {where['load']:.2f}; {packages}", markup=False)

"""Fitting the text vectors to the catalogue's own texts; public throughout: no behaviour is read, no budget spent.

- ``whiten``: the mean of the catalogue is taken off, and directions in which it varies a lot are scaled down (J. Su et
  al. 2021, "Whitening sentence representations"; without the scaling it is J. Mu and P. Viswanath 2018, "All-but-the-
  top"). What all texts of a shop have in common says nothing about taste, yet fills most of a text vector's length.
- ``contrastive``: the text model reads each text twice with different dropout, and learns to tell its other reading
  from those of other texts (T. Gao et al. 2021, "SimCSE"), through low-rank adapters (E. Hu et al. 2022, "LoRA").

What each is worth is in docs/large-model.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from shared.device import Device
from shared.errors import ConfigError
from shared.text_encoder import MAX_TOKENS, load_text_encoder, mean_pool

if TYPE_CHECKING:
    import torch

Adaptation = Literal["none", "whiten", "contrastive"]
STRENGTH: Final = 0.5  # half way: variances become their square roots
_SMALLEST: Final = 1e-6  # of the largest variance; below, a direction holds rounding errors


@dataclass(frozen=True)
class Whitening:
    """A public change of coordinates: ``(v - mean) @ mix``.

    Attributes:
        mean: (width,) float64.
        mix: (width, width) float64, symmetric.
    """

    mean: NDArray[np.float64]
    mix: NDArray[np.float64]


@dataclass(frozen=True)
class ContrastiveTerms:
    """How the text model is trained on the catalogue; all public.

    Attributes:
        rank: of the adapters on the query and value projections of every layer.
        epochs: times that every text is read.
        batch: texts told apart at a time.
        learning_rate, warmup: Adam's, which rises linearly over that share of the steps and falls linearly after.
        temperature: of the softmax over cosines.
        seed: of order and dropout.
    """

    rank: int = 8
    epochs: int = 1
    batch: int = 64
    learning_rate: float = 5e-4
    warmup: float = 0.1
    temperature: float = 0.05
    seed: int = 0


def whitening(vectors: NDArray[np.floating], strength: float = STRENGTH) -> Whitening | None:
    """What whitens the rows of a catalogue; None where there are fewer rows than coordinates to learn it from.

    Args:
        vectors: (n, width); all-zero rows, items without text, do not count.
        strength: 0 only takes off the mean, 1 makes all directions equal.

    Returns:
        The symmetric solution, which does not depend on the signs of eigenvectors.
    """
    rows = np.asarray(vectors[np.any(vectors != 0, axis=1)], np.float64)
    if len(rows) < rows.shape[1]:
        return None
    mean = rows.mean(axis=0)
    variance, directions = np.linalg.eigh(np.cov(rows.T))
    floor = max(float(variance[-1]), np.finfo(np.float64).tiny) * _SMALLEST
    scaled = (np.maximum(variance, floor) / max(float(variance[-1]), floor)) ** (-strength / 2.0)
    return Whitening(mean, (directions * scaled) @ directions.T)


def whiten(vectors: NDArray[np.floating], how: Whitening | None) -> NDArray[np.float64]:
    """(n, width) rows in the new coordinates, not scaled to length 1; all-zero rows stay so; None changes nothing."""
    wide = np.asarray(vectors, np.float64)
    if how is None:
        return wide
    there = np.any(wide != 0, axis=1, keepdims=True)
    return np.where(there, (wide - how.mean) @ how.mix, 0.0)


def contrastive_encoder(
    texts: Sequence[str],
    model: str,
    terms: ContrastiveTerms = ContrastiveTerms(),
    *,
    device: Device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, Any]:
    """Tokenizer and text model after it has learned to tell the catalogue's texts apart.

    Args:
        texts: of the catalogue; empty ones are left out.
        model: a folder or Hugging Face name, with attention projections called query and value.
        terms: see :class:`ContrastiveTerms`.
        device: what computes, in float32.
        progress: called with (steps done, steps).

    Raises:
        FetchError: the model cannot be loaded.
        ConfigError: it has no such projections.
    """
    import torch  # noqa: PLC0415 - heavy import

    tokenizer, encoder = load_text_encoder(model, device)
    texts = sorted({text for text in texts if text.strip()})
    steps = terms.epochs * (len(texts) // terms.batch)
    if not steps:
        return tokenizer, encoder
    with torch.random.fork_rng():
        torch.manual_seed(terms.seed)
        adapted = _with_adapters(encoder, model, terms.rank)
        _train(adapted, tokenizer, texts, terms, steps, progress)
    return tokenizer, adapted.merge_and_unload().eval()


def _with_adapters(encoder: Any, model: str, rank: int) -> Any:  # noqa: ANN401 - untyped library
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - heavy import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        try:
            return get_peft_model(encoder, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"]))
        except ValueError as error:
            raise ConfigError(f"{model}: no attention projections called query and value to adapt ({error})") from error


def _train(
    adapted: Any,  # noqa: ANN401 - untyped library
    tokenizer: Any,  # noqa: ANN401 - as above
    texts: Sequence[str],
    terms: ContrastiveTerms,
    steps: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    import torch  # noqa: PLC0415 - heavy import

    rng = np.random.default_rng(terms.seed)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=terms.learning_rate)
    rising = max(1, round(terms.warmup * steps))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rising, (steps - step) / max(steps - rising, 1))
    )
    adapted.train()
    per_epoch = len(texts) // terms.batch
    order = np.concatenate([rng.permutation(len(texts))[: per_epoch * terms.batch] for _ in range(terms.epochs)])
    for step, rows in enumerate(order.reshape(steps, terms.batch), 1):
        tokens = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(adapted.device)
        loss = contrast(_read(adapted, tokens), _read(adapted, tokens), terms.temperature)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        if progress is not None:
            progress(step, steps)


def contrast(one: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over rows of the softmax loss of finding a row's other reading among all other readings (Gao et al., 1)."""
    import torch  # noqa: PLC0415 - heavy import

    cosine = torch.nn.functional.normalize(one, dim=-1) @ torch.nn.functional.normalize(other, dim=-1).T
    return torch.nn.functional.cross_entropy(cosine / temperature, torch.arange(len(one), device=one.device))


def _read(adapted: Any, tokens: Any) -> torch.Tensor:  # noqa: ANN401 - untyped library
    return mean_pool(adapted(**tokens).last_hidden_state, tokens["attention_mask"])

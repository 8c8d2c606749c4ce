"""Low-rank adapters on the text model of a silo: an organisation with many users and the means to run a transformer.

Each adapted layer gets LoRA (Hu et al. 2022) on the query and value projections of its attention, by ``peft``. Only
the outer factor B is trained; the inner factor A is a public draw (FFA-LoRA, Sun et al. 2024): the mean of products
B A is then the product of the means, noise on A does not multiply noise on B, and half the parameters need no noise.

One Opacus sample is one user. A user's texts are laid end to end into one sequence, and a mask keeps them from
attending to one another: so the first dimension of whatever enters a layer is the user, and ``grad_sample`` is one
gradient a user. A tower that ran over a batch of texts would give one a *text*, without a word. What lies under the
adapted layers does not change, so the whole catalogue is sent through it once (:func:`read_catalogue`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from torch import Tensor, nn

from shared.encoder.spec import Floats
from shared.errors import ConfigError
from shared.history import NOT_INTERESTED, History
from shared.text_encoder import load_text_encoder, mean_pool

CHUNK: Final = 8  # users at a time; always this many, the last ones empty, as in client/training.py
TARGETS: Final = ("query", "value")
_FAR: Final = -1e9  # added to an attention score: no weight, and no NaN where a text is empty


@dataclass(frozen=True)
class AdapterSpec:
    """Public sizes of the adapters.

    Attributes:
        width: of the text model.
        layers: adapted layers, the last ones.
        rank: of each adapter.
    """

    width: int
    layers: int
    rank: int

    @property
    def size(self) -> int:
        """Trained parameters: one (width, rank) factor for every adapted projection."""
        return self.layers * len(TARGETS) * self.width * self.rank


@dataclass(frozen=True)
class SiloTerms:
    """Public settings of a silo's training.

    Attributes:
        temperature: of the softmax over cosines.
        context: most items of a profile.
        read, targets, negatives: places of one visit, the same for every history; ``read`` are items of the context.
    """

    temperature: float
    context: int
    read: int
    targets: int
    negatives: int


@dataclass(frozen=True)
class CatalogueStates:
    """The public catalogue as it enters the first adapted layer.

    Attributes:
        states: (items, tokens, width) float32.
        filled: (items, tokens) float32, 1 where there is a token.
        mean: (width,) float32, taken off every unit text vector.
        mix: (width, width) float32, applied after that; with the mean, what ``server/adaptation.py`` whitens with.
    """

    states: Tensor
    filled: Tensor
    mean: Tensor
    mix: Tensor


def read_catalogue(
    texts: Sequence[str],
    model: str,
    spec: AdapterSpec,
    *,
    mean: Floats,
    mix: Floats,
    tokens: int,
    seed: int = 0,
    batch: int = 64,
) -> tuple[nn.ModuleList, CatalogueStates]:
    """Load the text model, put adapters on its last layers, and send the catalogue through those below.

    Args:
        texts: of the public catalogue.
        model: a folder or Hugging Face name; of the BERT family.
        spec: public sizes.
        mean, mix: the public head; see :class:`CatalogueStates`.
        tokens: texts are cut there; public.
        seed: of the inner factors, which are public.
        batch: texts at a time.

    Returns:
        The adapted layers, and what enters them.

    Raises:
        FetchError: the model cannot be loaded.
        ConfigError: it is no BERT, or not of these sizes.
    """
    tokenizer, encoder = load_text_encoder(model)
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or encoder.config.hidden_size != spec.width:
        raise ConfigError(f"{model}: adapters need a text model of the BERT family that is {spec.width} wide")
    if not 1 <= spec.layers <= len(layers):
        raise ConfigError(f"{spec.layers} adapted layers: {model} has {len(layers)}, at least 1 must be adapted")
    below = len(layers) - spec.layers
    states = torch.zeros(len(texts), tokens, spec.width)
    filled = torch.zeros(len(texts), tokens)
    for start in range(0, len(texts), batch):
        part = tokenizer(
            list(texts[start : start + batch]),
            padding="max_length",
            truncation=True,
            max_length=tokens,
            return_tensors="pt",
        )
        mask = part["attention_mask"]
        with torch.no_grad():
            hidden = encoder.embeddings(input_ids=part["input_ids"], token_type_ids=part.get("token_type_ids"))
            for layer in layers[:below]:
                hidden = layer(hidden, _attention(mask[:, None].to(hidden.dtype)))
        states[start : start + batch], filled[start : start + batch] = hidden, mask.to(torch.float32)
    # A text without words holds the two tokens that every text begins and ends with: nothing to recommend by.
    filled[[number for number, text in enumerate(texts) if not text.strip()]] = 0.0
    head = torch.from_numpy(np.ascontiguousarray(mean)), torch.from_numpy(np.ascontiguousarray(mix))
    return _adapted(encoder, spec, below, seed), CatalogueStates(states, filled, *head)


class Tower(nn.Module):
    """The adapted layers on per-user sequences; a class because torch's modules are."""

    def __init__(self, layers: nn.ModuleList, text: CatalogueStates) -> None:
        super().__init__()
        self.layers, self.text = layers, text

    def forward(self, item: Tensor) -> Tensor:
        """(users, places, width) unit vectors of the items at (users, places) indices; 0 for a text without words."""
        text = self.text
        users, places = item.shape
        tokens, width = text.states.shape[1:]
        filled = text.filled[item]  # (users, places, tokens)
        hidden = text.states[item].reshape(users, places * tokens, width)
        mask = _attention(filled)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        pooled = mean_pool(hidden.reshape(users, places, tokens, width), filled)
        there = filled.any(-1, keepdim=True)
        return nn.functional.normalize((nn.functional.normalize(pooled, dim=-1) - text.mean) @ text.mix, dim=-1) * there


def fit(
    tower: Tower,
    parameters: Floats,
    vectors: Floats,
    terms: SiloTerms,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
) -> Iterator[Floats]:
    """Each user's unclipped contribution: minus the gradient of their loss, in chunks.

    Args:
        tower: see :class:`Tower`; its adapters are overwritten.
        parameters: (size,) where the gradient is taken.
        vectors: (items, width) what :func:`item_vectors` gives for these parameters.
        terms: public settings.
        histories, rngs: one per user; a fresh random split of the visible history into context and targets.

    Yields:
        (chunk, size) float32; the row of an empty history is zero, and no row depends on another user.
    """
    write_adapters(tower, parameters)
    module, known = GradSampleModule(tower, loss_reduction="sum"), torch.from_numpy(vectors)
    try:
        for start in range(0, len(histories), CHUNK):
            part = histories[start : start + CHUNK]
            visit = visits(known, terms, part, rngs[start : start + CHUNK])
            losses(module, visit, terms).sum().neg().backward()  # type: ignore[no-untyped-call]
            grads: list[Tensor] = [getattr(p, "grad_sample") for p in trained(module)]  # noqa: B009 - Opacus sets it
            yield torch.cat([grad.flatten(1) for grad in grads], 1)[: len(part)].numpy()
            module.zero_grad(set_to_none=True)
    finally:
        module.to_standard_module()


@dataclass(frozen=True)
class Visit:
    """One step's input, ``CHUNK`` users, the last ones empty.

    Attributes:
        item: (users, read + targets + negatives) int64 item indices, 0 where a place is empty.
        there: (users, read) float32, 1 where an item of the context is read.
        rest: (users, width) float32: rest plus the mean of what is read is the mean of the whole context.
        weight: (users, targets + negatives) float32, what a place's score adds to the user's loss: a share of 1 over
            the negatives, of -1 over the targets, 0 where a place is empty.
    """

    item: Tensor
    there: Tensor
    rest: Tensor
    weight: Tensor


def visits(known: Tensor, terms: SiloTerms, histories: Sequence[History], rngs: Sequence[np.random.Generator]) -> Visit:
    """A fresh random split of each user's visible history, and negatives from where the model would look now.

    Args:
        known: (items, width) vectors of the catalogue under the adapters as they are.
        terms: public settings.
        histories, rngs: at most ``CHUNK`` users.

    Formal guarantees:
        The profile is the mean of the whole context; a gradient goes through those of it that are read, which are drawn
        at random, as if they were all of it. Negatives are drawn from the user's own softmax over the catalogue
        without what the user has. So the gradient of :func:`losses` is, in the mean over draws, the one of a softmax
        over that whole catalogue. Nothing held out is looked at, not even to leave it out.
    """
    first, second = terms.read, terms.read + terms.targets
    items = np.zeros((CHUNK, second + terms.negatives), np.int64)
    there, weight = np.zeros((CHUNK, first), np.float32), np.zeros((CHUNK, terms.targets + terms.negatives), np.float32)
    rest, mean = torch.zeros(CHUNK, known.shape[1]), torch.zeros(CHUNK, known.shape[1])
    for row, (history, rng) in enumerate(zip(histories, rngs, strict=True)):
        context, targets = _split(history, rng, terms)
        if not len(targets):
            continue
        read = context[:first]  # the split is in random order
        items[row, : len(read)], there[row, : len(read)] = read, 1.0
        items[row, first : first + len(targets)] = targets
        mean[row] = known[torch.from_numpy(context).long()].mean(0)
        rest[row] = mean[row] - known[torch.from_numpy(read).long()].mean(0)
        weight[row, : len(targets)] = -1.0 / len(targets)
        weight[row, terms.targets :] = 1.0 / terms.negatives
    profile = nn.functional.normalize(mean, dim=-1)
    chance = torch.softmax(profile @ known.T / terms.temperature, 1).numpy().astype(np.float64)
    for row, (history, rng) in enumerate(zip(histories, rngs, strict=True)):
        if weight[row].any():
            chance[row, history.item[~history.held_out]] = 0.0
            items[row, second:] = _drawn(chance[row], terms.negatives, rng)
    return Visit(torch.from_numpy(items), torch.from_numpy(there), rest, torch.from_numpy(weight))


def _split(history: History, rng: np.random.Generator, terms: SiloTerms) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Context and targets: at most half of the visible positives become targets; nothing of a single one."""
    positive = history.item[~history.held_out & (history.kind != NOT_INTERESTED)]
    order = rng.permutation(positive)
    count = min(terms.targets, len(order) // 2)
    return order[count : count + terms.context] if count else order[:0], order[:count]


def _drawn(chance: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` items with these (unscaled) probabilities, evenly spread: one uniform number places them all."""
    reached = np.cumsum(chance)
    places = (np.arange(count) + rng.random()) / count * reached[-1]
    found: NDArray[np.int64] = np.searchsorted(reached, places, side="right")
    return np.minimum(found, len(chance) - 1)


def losses(module: nn.Module, visit: Visit, terms: SiloTerms) -> Tensor:
    """(users,) mean score of the negatives minus that of the targets: the softmax loss, as far as its gradient goes."""
    vectors = module(visit.item)
    mean = visit.rest + mean_pool(vectors[:, : terms.read], visit.there)
    cosine = torch.einsum("upd,ud->up", vectors[:, terms.read :], nn.functional.normalize(mean, dim=-1))
    return (cosine * visit.weight).sum(1) / terms.temperature


def item_vectors(tower: Tower, parameters: Floats, batch: int = 256) -> Floats:
    """(items, width) float32 unit vectors of the whole catalogue under these adapters."""
    write_adapters(tower, parameters)
    items = torch.arange(len(tower.text.states))
    with torch.no_grad():
        return np.concatenate([tower(part[:, None])[:, 0].numpy() for part in torch.split(items, batch)])


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The outer factors, in the order of the flat vector."""
    return [p for p in module.parameters() if p.requires_grad]


def write_adapters(module: nn.Module, parameters: Floats) -> None:
    """Set the outer factors from a flat vector.

    Raises:
        ValueError: the vector has another length.
    """
    nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), trained(module))


def _attention(filled: Tensor) -> Tensor:
    """(users, 1, T, T) of (users, places, tokens): what is added to attention scores; a text sees itself alone."""
    users, places, tokens = filled.shape
    own = torch.eye(places, dtype=filled.dtype).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    seen = own * filled.reshape(users, 1, places * tokens)
    return ((1.0 - seen) * _FAR)[:, None]


def _adapted(encoder: Any, spec: AdapterSpec, below: int, seed: int) -> nn.ModuleList:  # noqa: ANN401 - untyped library
    """The last layers with adapters: outer factors 0, inner ones orthonormal rows from a public draw."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - heavy import

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.rank,  # a scaling of 1
        target_modules=list(TARGETS),
        layers_to_transform=list(range(below, below + spec.layers)),
        layers_pattern="layer",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        model: Any = get_peft_model(encoder, config).eval()
    rng = np.random.default_rng(seed)
    for name, module in model.named_modules():
        for weight in module.parameters(recurse=False):
            weight.requires_grad_("lora_B" in name)
        if "lora_B" in name:
            module.train()  # Opacus looks at layers in training only; the others stay without dropout
        elif "lora_A" in name and isinstance(module, nn.Linear):
            rows = np.linalg.qr(rng.standard_normal((spec.width, spec.rank)))[0].T
            module.weight.data = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
            # Opacus' hooks sit between the input and the output of a layer, and want an input that has a gradient.
            module.register_forward_hook(lambda _module, _inputs, out: out.requires_grad_())
    return nn.ModuleList(model.base_model.model.encoder.layer[below:])

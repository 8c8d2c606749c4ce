"""Item vectors of the public catalogue: one feature group from a transformer, one from words, one from categories.

- ``text``: mean of the last hidden states over the attention mask, as Sentence-BERT does (N. Reimers and I. Gurevych,
  EMNLP 2019, section 3), L2-normalised.
- ``lexical``: TF-IDF over words and word pairs with sublinear term frequency (C. Manning, P. Raghavan and H. Schütze,
  Introduction to Information Retrieval, 2008, section 6.4), reduced by a truncated SVD (latent semantic analysis,
  ibid., 18.4).
- ``category``: multi-hot, weighted by inverse document frequency.

The text group can be fitted to the catalogue's own texts (``server/adaptation.py``), and all groups can be rounded to
bytes (``shared/recall/quantised.py``). What was fitted is kept as a basis, for items that come later
(``server/basis.py``). Rows have length 1, or 0 where an item has nothing in the group. Everything here
is public: no behaviour is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from server.adaptation import Adaptation, ContrastiveTerms, contrastive_encoder, whiten, whitening
from server.basis import (
    NOTHING,
    Axes,
    Basis,
    Categories,
    Floats,
    Vectors,
    Words,
    along,
    category_rows,
    compact_rows,
    hot_rows,
    parts_of,
    rounded,
    unit_rows,
    word_counter,
)
from shared.catalogue import Catalogue
from shared.device import Device
from shared.errors import DataError
from shared.kept import Arrays, code_of, kept, key_of
from shared.text_encoder import MAX_TOKENS, NO_MODEL, encoder_identity, load_text_encoder, mean_pool

EXACT_WORDS: Final = 4096
LEXICAL_SIZE: Final = 512
COMPACT_SIZE: Final = 16
LARGEST_KEPT: Final = 1 << 28  # bytes of a catalogue's vectors
ROOM: Final = 64  # columns for words that come with later items
BATCH: Final = 64
Progress = Callable[[int, int], None]
Precision = Literal["float32", "bfloat16", "float16"]
_GROUPS: Final = {"text", "lexical", "category", "compact"}
_CODE: Final = ("server.adaptation", "server.basis", "shared.recall.quantised", "shared.text_encoder")


class Reading(TypedDict, total=False):
    """How texts become vectors.

    Attributes:
        model: a folder or Hugging Face name for ``transformers``. ``"none"`` LOADS NO TRANSFORMER: group "text" is then
            a copy of group "lexical" and knows no meanings, only words. It exists for tests and machines without a
            model; a result got with it must say so.
        adaptation: what is done to the text group; see ``server/adaptation.py``. "contrastive" needs a transformer.
        vectors: "int8" rounds all groups to what bytes can hold, so that the catalogue's file, what devices load and
            what they score are a quarter as large, and everybody computes with the same numbers.
        device: what the text encoder computes on; see ``shared/device.py``. A GPU reads texts in half precision, and
            vectors that are in the cache already are taken whatever they were computed on.
        cache: folder in which text vectors are kept by hash of texts and model, and a catalogue's vectors by hash of
            all that they are made from (``shared/kept.py``); None keeps nothing.
        progress: called with (items done, items) after each batch; with "contrastive" every item counts twice, once
            while the model learns and once while it is read.
    """

    model: Required[str]
    adaptation: Adaptation
    vectors: Vectors
    device: Device
    cache: Path | None
    progress: Progress | None


def build_catalogue(
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    categories: Sequence[Sequence[str]],
    **reading: Unpack[Reading],
) -> Catalogue:
    """Vectors for every item, in the order of ``ids``.

    Args:
        ids: raw item ids, all different.
        titles: what a person reads.
        texts: what the encoder reads; an empty text gets all-zero rows.
        categories: the categories of each item, possibly none.
        reading: see :class:`Reading`.

    Raises:
        FetchError: the model cannot be loaded.
        DataError: the arguments do not fit together.
    """
    cache = reading.get("cache")
    if cache is None:
        return _built(ids, titles, texts, categories, 0, reading)[0]
    groups = kept(
        cache / "catalogues" / f"{_key(texts, categories, reading)}.npz",
        lambda: dict(_built(ids, titles, texts, categories, 0, reading)[0].groups),
        lambda found: set(found) == _GROUPS and all(rows.shape[:1] == (len(ids),) for rows in found.values()),
        largest=LARGEST_KEPT,
    )
    return _catalogue(ids, titles, texts, categories, groups)


def build_with_basis(
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    categories: Sequence[Sequence[str]],
    **reading: Unpack[Reading],
) -> tuple[Catalogue, Basis]:
    """As :func:`build_catalogue`, with room for new words, and what the vectors were made with, for items to come.

    The room is ``ROOM`` lexical columns of zeros: every score is what it is without them. After "contrastive" the basis
    knows the text encoder only as it was before: to read later items as well, keep the adapted one
    (:func:`adapted_encoder`) and build with that.
    """
    return _built(ids, titles, texts, categories, ROOM, reading)


def _built(
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    categories: Sequence[Sequence[str]],
    room: int,
    reading: Reading,
) -> tuple[Catalogue, Basis]:
    model, adaptation = reading["model"], reading.get("adaptation", "none")
    if model == NO_MODEL and adaptation == "contrastive":
        raise DataError(
            f'model.adaptation "contrastive" needs a text encoder to adapt; model.text_encoder is "{NO_MODEL}"'
        )
    lexical, words = lexical_vectors(texts, room)
    if model == NO_MODEL:
        identity, read = NO_MODEL, lexical.copy()
    else:
        identity = encoder_identity(model)
        read = _text_group(texts, identity, reading)
    white = whitening(read) if adaptation == "whiten" else None
    category, columns = category_vectors(categories)
    # The compact directions are whitened on their own: they start from the vectors as they were read.
    compact, axes = compact_vectors(read, lexical)
    text = unit_rows(whiten(read, white)) if adaptation == "whiten" else read
    groups = {"text": text, "lexical": lexical, "category": category, "compact": compact}
    kind = reading.get("vectors", "float32")
    catalogue = _catalogue(ids, titles, texts, categories, rounded(groups) if kind == "int8" else groups)
    return catalogue, Basis(identity, white, words, axes, columns, kind)


def _catalogue(
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    categories: Sequence[Sequence[str]],
    groups: Mapping[str, Floats],
) -> Catalogue:
    return Catalogue(tuple(ids), tuple(titles), tuple(texts), tuple(tuple(names) for names in categories), groups)


def _key(texts: Sequence[str], categories: Sequence[Sequence[str]], reading: Reading) -> str:
    """Of everything that :func:`build_catalogue` makes vectors from."""
    model, adaptation = reading["model"], reading.get("adaptation", "none")
    identity = NO_MODEL if model == NO_MODEL else encoder_identity(model)
    how = [identity, adaptation, reading.get("vectors", "float32"), metadata.version("scikit-learn")]
    words = (json.dumps([text, list(names)]).encode() for text, names in zip(texts, categories, strict=True))
    return key_of(chain(code_of(__name__, *_CODE), [json.dumps(how).encode()], words))


def adapted_encoder(
    texts: Sequence[str], model: str, folder: Path, *, device: Device = "cpu", tell: Progress | None = None
) -> None:
    """Keep the text encoder that "contrastive" would read these texts with, as a folder that transformers load.

    Args:
        texts: that it adapts to.
        model: a folder or Hugging Face name.
        folder: where it goes.
        device: what computes.
        tell: called with (steps done, steps).

    Raises:
        FetchError: the model cannot be loaded.
        ConfigError: it cannot be adapted.
    """
    tokenizer, encoder = contrastive_encoder(texts, model, device=device, progress=tell)
    tokenizer.save_pretrained(folder)
    encoder.save_pretrained(folder)


def text_vectors(
    texts: Sequence[str],
    model: str,
    *,
    device: Device = "cpu",
    batch: int = BATCH,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """(n, d) mean-pooled, unit-length sentence vectors; texts beyond ``MAX_TOKENS`` tokens are cut.

    Raises:
        FetchError: the model cannot be loaded.
        ConfigError: no such device here.
    """
    return read_texts(texts, *load_text_encoder(model, device), batch=batch, progress=progress)


def read_texts(
    texts: Sequence[str],
    tokenizer: Any,  # noqa: ANN401 - transformers' auto classes are untyped
    encoder: Any,  # noqa: ANN401 - as above
    *,
    batch: int = BATCH,
    precision: Precision | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """As :func:`text_vectors`, by a model that is loaded already.

    ``precision`` is that of matrix products inside the model, None = float16 on a GPU and float32 elsewhere; sums over
    tokens stay float32.
    """
    import torch  # noqa: PLC0415 - heavy import

    kind = encoder.device.type
    precision = precision or ("float16" if kind == "cuda" else "float32")
    # Equal lengths together: less padding. An empty text stays an all-zero row.
    order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        tokens = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(encoder.device)
        mixed = torch.autocast(kind, getattr(torch, precision), enabled=precision != "float32")
        with torch.no_grad(), mixed:
            hidden = encoder(**tokens).last_hidden_state
        out[rows] = mean_pool(hidden.float(), tokens["attention_mask"]).cpu().numpy()
        if progress is not None:
            progress(min(start + batch, len(order)), len(order))
    return unit_rows(out)


def lexical_vectors(texts: Sequence[str], room: int = 0) -> tuple[Floats, Words]:
    """(n, words) TF-IDF with sublinear term frequency, unit rows; above ``EXACT_WORDS`` words, (n, ``LEXICAL_SIZE``).

    Exact where it can be: items that share a rare word are what word statistics know, and a truncated SVD with a fixed
    seed (latent semantic analysis) loses much of that. Beside the rows, what they were made with.

    Args:
        texts: of the items.
        room: columns of zeros behind the others, for words that come later.
    """
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - heavy import

    counter = word_counter()
    # A word of one text among one more: ln((1 + n) / (1 + items of the word)) + 1, n counting the new text.
    rarest = math.log((2 + len(texts)) / 2) + 1.0
    words = Words((), np.zeros(0), None, rarest, 1.0, room)
    try:
        weights = counter.fit_transform(texts)
    except ValueError:  # "empty vocabulary": no text holds a word
        return np.zeros((len(texts), 1 + room), np.float32), words
    words = replace(words, vocabulary=tuple(counter.get_feature_names_out().tolist()), idf=counter.idf_)
    if weights.shape[1] <= EXACT_WORDS:
        out = np.zeros((len(texts), weights.shape[1] + room), np.float32)
        for part in parts_of(len(texts)):
            out[part, : weights.shape[1]] = unit_rows(weights[part].toarray())
        return out, words
    reduction = TruncatedSVD(min(LEXICAL_SIZE, len(texts)), random_state=0)
    rows = reduction.fit_transform(weights)
    length = float(np.linalg.norm(rows, axis=1).mean())
    words = replace(words, axes=reduction.components_.astype(np.float32), length=length)
    return np.pad(unit_rows(rows), ((0, 0), (0, room))), words


def compact_vectors(text: Floats, lexical: Floats) -> tuple[Floats, tuple[Axes, Axes]]:
    """(n, at most ``COMPACT_SIZE`` a group) leading directions of vector groups, unit rows; and these directions.

    Half whitened: each direction divided by the root of its singular value, between keeping the first directions'
    dominance and giving all of them one voice. What the linear encoder reads of texts; few numbers, for noise is paid
    by the number.
    """
    axes = (_axes(text), _axes(lexical))
    return compact_rows(axes, (text, lexical)), axes


def _axes(rows: Floats) -> Axes:
    mean = np.asarray(np.mean(rows, axis=0, dtype=np.float64))
    moment = np.zeros((rows.shape[1], rows.shape[1]))
    for part in parts_of(len(rows)):
        wide = np.asarray(rows[part], np.float64) - mean
        moment += wide.T @ wide
    values, directions = np.linalg.eigh(moment)
    kept = np.argsort(-values)[: min(COMPACT_SIZE, len(values))]
    kept = kept[values[kept] > NOTHING]
    axes = Axes(mean, directions[:, kept], np.sqrt(np.sqrt(values[kept])), 1.0)
    return replace(axes, length=_mean_length(axes, rows)) if len(kept) else axes


def _mean_length(axes: Axes, rows: Floats) -> float:
    lengths = [np.linalg.norm(along(axes, rows[part]), axis=1) for part in parts_of(len(rows))]
    return float(np.concatenate(lengths).mean())


def category_vectors(categories: Sequence[Sequence[str]]) -> tuple[Floats, Categories]:
    """(n, number of categories) multi-hot rows weighted by log(1 + n / items of the category), unit length."""
    names = tuple(sorted({name for row in categories for name in row}))
    items = hot_rows(names, categories).sum(axis=0)
    columns = Categories(names, np.log1p(len(categories) / np.maximum(items, 1.0)))
    return category_rows(columns, categories), columns


def _text_group(texts: Sequence[str], identity: str, reading: Reading) -> NDArray[np.float32]:
    """As the encoder reads the texts; from the cache if it read them before."""
    cache, contrastive = reading.get("cache"), reading.get("adaptation") == "contrastive"
    if cache is None:
        return _read_anew(texts, reading)
    terms = [list(astuple(ContrastiveTerms()))] if contrastive else []
    words = json.dumps([MAX_TOKENS, identity, list(texts), *terms]).encode()
    path = cache / "vectors" / f"{key_of(chain(code_of('server.adaptation', 'shared.text_encoder'), [words]))}.npz"

    def fits(found: Arrays) -> bool:
        return (
            set(found) == {"text"} and found["text"].dtype == np.float32 and found["text"].shape[:-1] == (len(texts),)
        )

    return kept(path, lambda: {"text": _read_anew(texts, reading)}, fits)["text"]


def _read_anew(texts: Sequence[str], reading: Reading) -> NDArray[np.float32]:
    model, device = reading["model"], reading.get("device", "cpu")
    tell = reading.get("progress") or _silent
    if reading.get("adaptation") != "contrastive":
        return text_vectors(texts, model, device=device, progress=tell)
    count = sum(1 for text in texts if text.strip())
    tokenizer, encoder = contrastive_encoder(
        texts, model, device=device, progress=lambda step, steps: tell(count * step // steps, 2 * count)
    )
    return read_texts(texts, tokenizer, encoder, progress=lambda done, _all: tell(count + done, 2 * count))


def _silent(_done: int, _all: int) -> None:
    """Nobody waits."""

"""Item vectors of the public catalogue: one feature group from a transformer, one from words, one from categories.

- ``text``: mean of the last hidden states over the attention mask, as Sentence-BERT does (N. Reimers and I. Gurevych,
  EMNLP 2019, section 3), L2-normalised.
- ``lexical``: TF-IDF over words and word pairs with sublinear term frequency (C. Manning, P. Raghavan and H. Schütze,
  Introduction to Information Retrieval, 2008, section 6.4), reduced by a truncated SVD (latent semantic analysis,
  ibid., 18.4).
- ``category``: multi-hot, weighted by inverse document frequency.

The text group can be fitted to the catalogue's own texts (``server/adaptation.py``), and all groups can be rounded to
bytes (``shared/recall/quantised.py``). Rows have length 1, or 0 where an item has nothing in the group. Everything here
is public: no behaviour is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from server.adaptation import Adaptation, ContrastiveTerms, contrastive_encoder, whiten, whitening
from shared.catalogue import Catalogue
from shared.errors import DataError
from shared.files import read_arrays, write_arrays
from shared.recall.quantised import quantise, unit_rows_of
from shared.text_encoder import MAX_TOKENS, NO_MODEL, encoder_identity, load_text_encoder, mean_pool

EXACT_WORDS: Final = 4096
LEXICAL_SIZE: Final = 512
COMPACT_SIZE: Final = 16
BATCH: Final = 64
Progress = Callable[[int, int], None]
Precision = Literal["float32", "bfloat16", "float16"]
_FORMAT: Final = "fedrecall-text-vectors-1"
# A row shorter than this before scaling holds rounding errors and nothing else.
_NOTHING: Final = 1e-6


def build_catalogue(
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    categories: Sequence[Sequence[str]],
    *,
    model: str,
    adaptation: Adaptation = "none",
    vectors: Literal["float32", "int8"] = "float32",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Catalogue:
    """Vectors for every item, in the order of ``ids``.

    Args:
        ids: raw item ids, all different.
        titles: what a person reads.
        texts: what the encoder reads; an empty text gets all-zero rows.
        categories: the categories of each item, possibly none.
        model: a folder or Hugging Face name for ``transformers``. ``"none"`` LOADS NO TRANSFORMER: group "text" is then
            a copy of group "lexical" and knows no meanings, only words. It exists for tests and machines without a
            model; a result got with it must say so.
        adaptation: what is done to the text group; see ``server/adaptation.py``. "contrastive" needs a transformer.
        vectors: "int8" rounds all groups to what bytes can hold, so that the catalogue's file, what devices load and
            what they score are a quarter as large, and everybody computes with the same numbers.
        cache: folder in which text vectors are kept by hash of texts and model; None keeps nothing.
        progress: called with (items done, items) after each batch; with "contrastive" every item counts twice, once
            while the model learns and once while it is read.

    Raises:
        FetchError: the model cannot be loaded.
        DataError: the arguments do not fit together.
    """
    if model == NO_MODEL and adaptation == "contrastive":
        raise DataError(
            f'model.adaptation "contrastive" needs a text encoder to adapt; model.text_encoder is "{NO_MODEL}"'
        )
    lexical = lexical_vectors(texts)
    if model == NO_MODEL:
        text = lexical.copy()
    else:
        text = _cached_text_vectors(texts, model, contrastive=adaptation == "contrastive", cache=cache, tell=progress)
    # The compact directions are whitened on their own: they start from the vectors as they were read.
    read, text = text, unit_rows(whiten(text, whitening(text))) if adaptation == "whiten" else text
    groups = {"text": text, "lexical": lexical, "category": category_vectors(categories)}
    groups["compact"] = compact_vectors(read, lexical)
    if vectors == "int8":
        groups = {name: unit_rows_of(quantise(rows).values) for name, rows in groups.items()}
    return Catalogue(
        ids=tuple(ids),
        titles=tuple(titles),
        texts=tuple(texts),
        categories=tuple(tuple(names) for names in categories),
        groups=groups,
    )


def text_vectors(
    texts: Sequence[str], model: str, *, batch: int = BATCH, progress: Progress | None = None
) -> NDArray[np.float32]:
    """(n, d) mean-pooled, unit-length sentence vectors; texts beyond ``MAX_TOKENS`` tokens are cut.

    Raises:
        FetchError: the model cannot be loaded.
    """
    return read_texts(texts, *load_text_encoder(model), batch=batch, progress=progress)


def read_texts(
    texts: Sequence[str],
    tokenizer: Any,  # noqa: ANN401 - transformers' auto classes are untyped
    encoder: Any,  # noqa: ANN401 - as above
    *,
    batch: int = BATCH,
    precision: Precision = "float32",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """As :func:`text_vectors`, by a model that is loaded already.

    ``precision`` is that of matrix products inside the model; sums over tokens stay float32.
    """
    import torch  # noqa: PLC0415 - heavy import

    # Equal lengths together: less padding. An empty text stays an all-zero row.
    order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        tokens = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        mixed = torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32")
        with torch.no_grad(), mixed:
            hidden = encoder(**tokens).last_hidden_state
        out[rows] = mean_pool(hidden.float(), tokens["attention_mask"]).numpy()
        if progress is not None:
            progress(min(start + batch, len(order)), len(order))
    return unit_rows(out)


def lexical_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n, words) TF-IDF with sublinear term frequency, unit rows; above ``EXACT_WORDS`` words, (n, ``LEXICAL_SIZE``).

    Exact where it can be: items that share a rare word are what word statistics know, and a truncated SVD with a fixed
    seed (latent semantic analysis) loses much of that.
    """
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - heavy import
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy import

    try:
        weights = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode").fit_transform(texts)
    except ValueError:  # "empty vocabulary": no text holds a word
        return np.zeros((len(texts), 1), np.float32)
    if weights.shape[1] <= EXACT_WORDS:
        return unit_rows(weights.toarray())
    return unit_rows(TruncatedSVD(min(LEXICAL_SIZE, len(texts)), random_state=0).fit_transform(weights))


def compact_vectors(*groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, at most ``COMPACT_SIZE`` a group) leading directions of vector groups, unit rows.

    Half whitened: each direction divided by the root of its singular value, between keeping the first directions'
    dominance and giving all of them one voice. What the linear encoder reads of texts; few numbers, for noise is paid
    by the number.
    """
    parts = []
    for rows in groups:
        wide = np.asarray(rows, np.float64) - np.mean(rows, axis=0, dtype=np.float64)
        values, directions = np.linalg.eigh(wide.T @ wide)
        kept = np.argsort(-values)[: min(COMPACT_SIZE, len(values))]
        kept = kept[values[kept] > _NOTHING]
        if len(kept):
            scaled = wide @ directions[:, kept] / np.sqrt(np.sqrt(values[kept]))
            parts.append(scaled / np.linalg.norm(scaled, axis=1).mean())
    return unit_rows(np.concatenate(parts, axis=1)) if parts else np.zeros((len(groups[0]), 1), np.float32)


def category_vectors(categories: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """(n, number of categories) multi-hot rows weighted by log(1 + n / items of the category), unit length."""
    names = sorted({name for row in categories for name in row})
    place = {name: column for column, name in enumerate(names)}
    hot = np.zeros((len(categories), max(len(names), 1)))
    for item, row in enumerate(categories):
        for name in row:
            hot[item, place[name]] = 1.0
    return unit_rows(hot * np.log1p(len(categories) / np.maximum(hot.sum(axis=0), 1.0)))


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """(n, d) rows scaled to length 1; rows without content become all zero."""
    wide = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    scaled = np.zeros_like(wide)
    np.divide(wide, lengths, out=scaled, where=lengths > _NOTHING)
    return scaled.astype(np.float32)


def _cached_text_vectors(
    texts: Sequence[str], model: str, *, contrastive: bool, cache: Path | None, tell: Progress | None
) -> NDArray[np.float32]:
    if cache is None:
        return _fresh_text_vectors(texts, model, contrastive=contrastive, tell=tell)
    terms = [list(astuple(ContrastiveTerms()))] if contrastive else []
    words = json.dumps([_FORMAT, MAX_TOKENS, encoder_identity(model), list(texts), *terms]).encode()
    path = cache / "vectors" / f"{hashlib.sha256(words).hexdigest()}.npz"
    try:
        kept = read_arrays(path)["text"]
        if kept.dtype == np.float32 and kept.ndim == 2 and len(kept) == len(texts):
            return kept.astype(np.float32, copy=False)
    except (DataError, KeyError):
        pass  # not there, or cut short by a full disk: made again and overwritten
    vectors = _fresh_text_vectors(texts, model, contrastive=contrastive, tell=tell)
    write_arrays(path, {"text": vectors})
    return vectors


def _fresh_text_vectors(
    texts: Sequence[str], model: str, *, contrastive: bool, tell: Progress | None
) -> NDArray[np.float32]:
    if not contrastive:
        return text_vectors(texts, model, progress=tell)
    if tell is None:
        return read_texts(texts, *contrastive_encoder(texts, model))
    count = sum(1 for text in texts if text.strip())
    tokenizer, encoder = contrastive_encoder(
        texts, model, progress=lambda step, steps: tell(count * step // steps, 2 * count)
    )
    return read_texts(texts, tokenizer, encoder, progress=lambda done, _all: tell(count + done, 2 * count))

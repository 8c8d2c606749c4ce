"""Item vectors of the public catalogue: one feature group from a transformer, one from words, one from categories.

- ``text``: mean of the last hidden states over the attention mask, as Sentence-BERT does (N. Reimers and I. Gurevych,
  EMNLP 2019, section 3), L2-normalised.
- ``lexical``: TF-IDF over words and word pairs with sublinear term frequency (C. Manning, P. Raghavan and H. Schütze,
  Introduction to Information Retrieval, 2008, section 6.4), reduced by a truncated SVD (latent semantic analysis,
  ibid., 18.4).
- ``category``: multi-hot, weighted by inverse document frequency.

Rows have length 1, or 0 where an item has nothing in the group. Everything here is public: no behaviour is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from shared.catalogue import Catalogue
from shared.errors import DataError, FetchError
from shared.files import read_arrays, write_arrays

if TYPE_CHECKING:
    import torch

NO_MODEL: Final = "none"
LEXICAL_SIZE: Final = 64
MAX_TOKENS: Final = 128
BATCH: Final = 64
Progress = Callable[[int, int], None]
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
        cache: folder in which text vectors are kept by hash of texts and model; None keeps nothing.
        progress: called with (items done, items) after each batch.

    Raises:
        FetchError: the model cannot be loaded.
        DataError: the arguments do not fit together.
    """
    lexical = lexical_vectors(texts)
    text = lexical.copy() if model == NO_MODEL else _cached_text_vectors(texts, model, cache, progress)
    return Catalogue(
        ids=tuple(ids),
        titles=tuple(titles),
        texts=tuple(texts),
        categories=tuple(tuple(names) for names in categories),
        groups={"text": text, "lexical": lexical, "category": category_vectors(categories)},
    )


def text_vectors(
    texts: Sequence[str], model: str, *, batch: int = BATCH, progress: Progress | None = None
) -> NDArray[np.float32]:
    """(n, d) mean-pooled, unit-length sentence vectors; texts beyond ``MAX_TOKENS`` tokens are cut.

    Raises:
        FetchError: the model cannot be loaded.
    """
    import torch  # noqa: PLC0415 - heavy import

    tokenizer, encoder = _load(model)
    # Equal lengths together: less padding. An empty text stays an all-zero row.
    order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        tokens = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = encoder(**tokens).last_hidden_state
        out[rows] = mean_pool(hidden, tokens["attention_mask"]).numpy()
        if progress is not None:
            progress(min(start + batch, len(order)), len(order))
    return unit_rows(out)


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(b, d) mean of (b, t, d) over the t positions whose (b, t) mask is 1; padding never counts."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def lexical_vectors(texts: Sequence[str], size: int = LEXICAL_SIZE) -> NDArray[np.float32]:
    """(n, <= size) TF-IDF over words and word pairs, reduced by a truncated SVD with a fixed seed, unit rows."""
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - heavy import
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy import

    try:
        weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode").fit_transform(texts)
    except ValueError:  # "empty vocabulary": no text holds a word
        return np.zeros((len(texts), 1), np.float32)
    if min(weights.shape) <= size:
        return unit_rows(_full_svd(weights.toarray()))
    return unit_rows(TruncatedSVD(size, random_state=0).fit_transform(weights))


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


def _full_svd(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A small catalogue needs no approximation: all singular directions, so that inner products stay exact."""
    left, values, _ = np.linalg.svd(weights, full_matrices=False)
    scaled: NDArray[np.float64] = left * values
    return scaled


def _cached_text_vectors(
    texts: Sequence[str], model: str, cache: Path | None, progress: Progress | None
) -> NDArray[np.float32]:
    if cache is None:
        return text_vectors(texts, model, progress=progress)
    words = json.dumps([_FORMAT, MAX_TOKENS, _identity(model), list(texts)]).encode()
    path = cache / "vectors" / f"{hashlib.sha256(words).hexdigest()}.npz"
    try:
        kept = read_arrays(path)["text"]
        if kept.dtype == np.float32 and kept.ndim == 2 and len(kept) == len(texts):
            return kept.astype(np.float32, copy=False)
    except (DataError, KeyError):
        pass  # not there, or cut short by a full disk: made again and overwritten
    vectors = text_vectors(texts, model, progress=progress)
    write_arrays(path, {"text": vectors})
    return vectors


def _identity(model: str) -> str:
    """A folder is what its files hold, wherever it lies; a name is a name."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".txt", ".model"}:
            with path.open("rb") as stream:
                digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _load(model: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - transformers' auto classes are untyped
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - heavy import

    with _quiet_transformers():
        try:
            # Safetensors only: other weight files are pickles, which run code when they are opened.
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            encoder = AutoModel.from_pretrained(model, trust_remote_code=False, use_safetensors=True)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise FetchError(
                f"text encoder {model!r} cannot be loaded ({type(error).__name__}: {_first_line(error)}); give a "
                f"folder with a Hugging Face model, a name that the hub knows, or {NO_MODEL!r} for word statistics only"
            ) from error
    return tokenizer, encoder.eval()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")[:200]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Loading draws progress bars and warns of unused heads; a library stays silent."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy import

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

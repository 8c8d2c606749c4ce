"""Directions of a catalogue's vectors, kept from its first build: where items that come later get their vectors.

Words and their weights, the axes of latent semantic analysis, whitening, compact directions and category columns are
fitted to the items that there are. Fitted again with one item more, all of them would turn, and with them every row of
every item: a model trained before would read noise, and a device would have to fetch everything. So they are kept, and
a new item's row is what it would have been beside the first ones (docs/adr/0015-fixed-directions-for-new-items.md).

Words that the first items did not have get columns that were left empty for them, by a hash with a sign: no two of them
have anything in common but by chance, in either direction alike (feature hashing: K. Weinberger et al., ICML 2009). So
they count between new items, and they take their share of a row's length: without them a new item would seem to be all
that its known words say, and be recommended too much. A new category counts for nothing. How many new words there are
is told (:func:`unknown_words`), for at some point a new basis is worth a new model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from server.adaptation import Whitening, whiten
from shared.errors import DataError
from shared.files import read_arrays, write_arrays
from shared.recall.quantised import quantise, unit_rows_of
from shared.text_encoder import NO_MODEL

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Vectors = Literal["float32", "int8"]
_FORMAT: Final = "fedrecall-basis-1"
# A row shorter than this before scaling holds rounding errors and nothing else.
NOTHING: Final = 1e-6
AT_ONCE: Final = 65_536  # rows


@dataclass(frozen=True)
class Words:
    """TF-IDF as fitted.

    Attributes:
        vocabulary: words, in the order of columns; none where no text held a word.
        idf: (words,) inverse document frequency.
        axes: (width, words) float32 of the truncated SVD; None where the words themselves are the columns.
        rarest: inverse document frequency of a word that one item more would bring.
        length: mean length of a text's weights along the axes, of 1; that much of a new word counts, too.
        room: columns behind the others for words that are not in the vocabulary; 0 = they count for nothing.
    """

    vocabulary: tuple[str, ...]
    idf: Wide
    axes: Floats | None
    rarest: float
    length: float
    room: int


@dataclass(frozen=True)
class Axes:
    """Compact directions of one group.

    Attributes:
        mean: (width,) of the group's rows.
        directions: (width, kept), kept possibly 0.
        roots: (kept,) what each direction is divided by.
        length: mean length of the rows afterwards, which they are divided by.
    """

    mean: Wide
    directions: Wide
    roots: Wide
    length: float


@dataclass(frozen=True)
class Categories:
    """Columns of the category group.

    Attributes:
        names: in the order of columns.
        weights: (max(names, 1),) inverse document frequency.
    """

    names: tuple[str, ...]
    weights: Wide


@dataclass(frozen=True)
class Basis:
    """All of it.

    Attributes:
        encoder: identity of the text encoder (``shared/text_encoder.py``), or "none".
        whitening: of the text group; None = left as it was read.
        words, categories: see there.
        compact: of the text group as it was read, and of the lexical group.
        vectors: "int8" rounds every row to what bytes can hold.
    """

    encoder: str
    whitening: Whitening | None
    words: Words
    compact: tuple[Axes, Axes]
    categories: Categories
    vectors: Vectors


def vectors_of_new(
    basis: Basis, texts: Sequence[str], categories: Sequence[Sequence[str]], read: Floats | None
) -> dict[str, Floats]:
    """Feature groups of items that were not there when the basis was fitted.

    Args:
        basis: of the catalogue that they enter.
        texts, categories: of the new items.
        read: (n, width) their texts as the basis' encoder reads them; None with encoder "none".

    Returns:
        Group -> (n, width) rows of length 1 or 0; for the texts that the basis was fitted to, the rows that they have.

    Raises:
        DataError: vectors of another width, or none where the basis needs them.
    """
    lexical = word_rows(basis.words, texts)
    if basis.encoder == NO_MODEL:
        read = lexical
    width = len(basis.compact[0].mean)
    if read is None or read.shape != (len(texts), width):
        raise DataError(
            f"new items: text vectors of shape {None if read is None else read.shape}; the catalogue's directions "
            f"read ({len(texts)}, {width}): use the text encoder that it was built with"
        )
    groups = {
        "text": read if basis.whitening is None else unit_rows(whiten(read, basis.whitening)),
        "lexical": lexical,
        "category": category_rows(basis.categories, categories),
        "compact": compact_rows(basis.compact, (read, lexical)),
    }
    return rounded(groups) if basis.vectors == "int8" else groups


def word_rows(words: Words, texts: Sequence[str]) -> Floats:
    """(n, width + room) unit rows: TF-IDF of texts by a fitted vocabulary, words that it does not have behind."""
    columns = len(words.vocabulary) if words.axes is None else len(words.axes)
    known = np.zeros((len(texts), max(columns, 1)))
    if words.vocabulary and texts:
        places = {word: column for column, word in enumerate(words.vocabulary)}
        counter = word_counter(vocabulary=places, norm=None)
        counter.idf_ = words.idf
        weights = counter.transform(texts)
        known = weights.toarray() if words.axes is None else weights @ words.axes.T
    return unit_rows(np.concatenate([known, words.length * _strange_rows(words, texts)], axis=1))


def _strange_rows(words: Words, texts: Sequence[str]) -> Wide:
    """(n, room) weights of words that are not in the vocabulary, each in the column and with the sign of its hash."""
    out = np.zeros((len(texts), words.room))
    if not words.room:
        return out
    analyse, known = word_counter().build_analyzer(), set(words.vocabulary)
    for row, text in enumerate(texts):
        for word, count in Counter(word for word in analyse(text) if word not in known).items():
            number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            weight = (1.0 + math.log(count)) * words.rarest
            out[row, number // 2 % words.room] += weight if number % 2 else -weight
    return out


def unknown_words(words: Words, texts: Sequence[str]) -> float:
    """Share of the words of new texts that a basis does not know; 0 where they hold none."""
    analyse, known = word_counter().build_analyzer(), set(words.vocabulary)
    unknown = [word not in known for text in texts for word in analyse(text)]
    return sum(unknown) / max(len(unknown), 1)


def word_counter(**options: Any) -> Any:  # noqa: ANN401 - untyped library
    """Scikit-learn's TF-IDF with the settings that every catalogue is built with."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy import

    return TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", **options)


def category_rows(categories: Categories, of_items: Sequence[Sequence[str]]) -> Floats:
    """(n, columns) weighted multi-hot rows of unit length; unknown categories have no column."""
    return unit_rows(hot_rows(categories.names, of_items) * categories.weights)


def hot_rows(names: Sequence[str], of_items: Sequence[Sequence[str]]) -> Wide:
    """(n, max(names, 1)) 1 where an item is of a category."""
    place = {name: column for column, name in enumerate(names)}
    hot = np.zeros((len(of_items), max(len(names), 1)))
    for item, row in enumerate(of_items):
        hot[item, [place[name] for name in row if name in place]] = 1.0
    return hot


def compact_rows(axes: Sequence[Axes], groups: Sequence[Floats]) -> Floats:
    """(n, width) rows along fitted directions of each group, unit length; one column of 0 where there are none."""
    pairs = [(one, rows) for one, rows in zip(axes, groups, strict=True) if one.directions.shape[1]]
    out = np.zeros((len(groups[0]), sum(one.directions.shape[1] for one, _ in pairs) or 1), np.float32)
    for part in parts_of(len(out) if pairs else 0):
        sides = [along(one, rows[part]) / one.length for one, rows in pairs]
        out[part] = unit_rows(np.concatenate(sides, axis=1))
    return out


def along(axes: Axes, rows: Floats) -> Wide:
    """(n, kept) rows along one group's directions, each divided by its root."""
    scaled: Wide = (np.asarray(rows, np.float64) - axes.mean) @ axes.directions / axes.roots
    return scaled


def rounded(groups: dict[str, Floats]) -> dict[str, Floats]:
    """Every row as bytes can hold it (``shared/recall/quantised.py``)."""
    return {name: unit_rows_of(quantise(rows).values) for name, rows in groups.items()}


def unit_rows(rows: NDArray[np.floating]) -> Floats:
    """(n, d) rows scaled to length 1; rows without content become all zero."""
    out = np.zeros(rows.shape, np.float32)
    for part in parts_of(len(rows)):
        wide = np.asarray(rows[part], np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        np.divide(wide, lengths, out=wide, where=lengths > NOTHING)
        out[part] = np.where(lengths > NOTHING, wide, 0.0)
    return out


def parts_of(rows: int) -> Iterator[slice]:
    """Slices that cover so many rows: what is worked out in float64 on the way is as large as one of them."""
    return (slice(start, start + AT_ONCE) for start in range(0, rows, AT_ONCE))


def save_basis(basis: Basis, path: Path) -> None:
    """One file without pickle, atomically."""
    said = {
        "format": _FORMAT,
        "encoder": basis.encoder,
        "vectors": basis.vectors,
        "vocabulary": basis.words.vocabulary,
        "categories": basis.categories.names,
        "rarest": basis.words.rarest,
        "length": basis.words.length,
        "room": basis.words.room,
    }
    arrays: dict[str, NDArray[Any]] = {
        "said": np.frombuffer(json.dumps(said).encode(), np.uint8),
        "idf": basis.words.idf,
        "weights": basis.categories.weights,
    }
    if basis.words.axes is not None:
        arrays["axes"] = basis.words.axes
    if basis.whitening is not None:
        arrays |= {"whitening/mean": basis.whitening.mean, "whitening/mix": basis.whitening.mix}
    for number, axes in enumerate(basis.compact):
        arrays |= {f"compact/{number}/{name}": np.asarray(value, np.float64) for name, value in vars(axes).items()}
    write_arrays(path, arrays)


def load_basis(path: Path) -> Basis:
    """Read what ``save_basis`` wrote.

    Raises:
        DataError: no such file, cut short, or not a basis.
    """
    arrays = read_arrays(path)
    try:
        said = json.loads(bytes(arrays["said"]))
        if said["format"] != _FORMAT or said["vectors"] not in get_args(Vectors):
            raise DataError(f"{path}: format {said['format']!r}, vectors {said['vectors']!r}; expected {_FORMAT}")
        white = Whitening(arrays["whitening/mean"], arrays["whitening/mix"]) if "whitening/mix" in arrays else None
        return Basis(
            encoder=said["encoder"],
            whitening=white,
            words=_words(said, arrays),
            compact=(_axes(arrays, 0), _axes(arrays, 1)),
            categories=Categories(tuple(said["categories"]), arrays["weights"]),
            vectors=cast("Vectors", said["vectors"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a catalogue's directions ({error}); rebuild the catalogue") from error


def _words(said: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Words:
    numbers = float(said["rarest"]), float(said["length"]), int(said["room"])
    return Words(tuple(said["vocabulary"]), arrays["idf"], arrays.get("axes"), *numbers)


def _axes(arrays: dict[str, NDArray[Any]], number: int) -> Axes:
    mean, directions, roots, length = (
        arrays[f"compact/{number}/{name}"] for name in ("mean", "directions", "roots", "length")
    )
    return Axes(mean, directions, roots, float(length))

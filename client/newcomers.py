"""New items: a later version of the catalogue under a model that was trained before they existed.

Items of the model's own catalogue keep their rows. A new item has none: nobody has trained its vectors or its
popularity, and a hash would hand it those of a stranger. It gets rows of its own, appended on the device:

- vectors: what the known items say whose texts are nearest (attribute-to-feature mapping by nearest neighbours: Gantner
  et al., ICDM 2010, section IV.A). The targets of encoder "linear" are as long as an item is popular, so there they are
  divided by popularity first.
- popularity: nobody knows it, so it is a choice: that of a known item of which nine in ten are less popular
  (``WELCOME``). It gives new items about their fair share of the places; docs/device.md has what it costs the others.

So it is recommended at once, by what its text says. All of it is computed from what has been given out: it costs no
budget. Training goes on with these items in the next run, whose plan counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.catalogue import Catalogue
from shared.encoder.encode import log_popularity_of
from shared.encoder.spec import EncoderSpec, Floats, bucket_of, unpack
from shared.errors import DataError

NEIGHBOURS: Final = 20
WELCOME: Final = 0.9  # quantile of popularity
CHUNK: Final = 1 << 23  # similarities at a time: 32 MB


@dataclass(frozen=True)
class Grown:
    """A model with rows for new items.

    Attributes:
        spec: with as many more buckets as there are new items.
        parameters: of that size.
        prior: (buckets,) log private popularity.
        bucket: (items,) row of each item of the new catalogue.
    """

    spec: EncoderSpec
    parameters: Floats
    prior: Floats
    bucket: NDArray[np.int64]


def grown(
    spec: EncoderSpec,
    parameters: Floats,
    prior: Floats,
    known: Sequence[str],
    catalogue: Catalogue,
    neighbours: int = NEIGHBOURS,
) -> Grown:
    """A model for a catalogue with new items.

    Args:
        spec, parameters, prior: as trained.
        known: raw ids of the catalogue that it was trained with, in its order.
        catalogue: the new one; items may be new, gone or in another place.
        neighbours: known items that a new one takes after.

    Raises:
        DataError: no item is known, or the text vectors are of another width: a catalogue of another model.
    """
    width = catalogue.groups[spec.reads].shape[1]
    place = {name: row for row, name in enumerate(known)}
    old = np.array([place.get(name, -1) for name in catalogue.ids], np.int64)
    if width != spec.text_width or not (old >= 0).any():
        raise DataError(
            f"catalogue of {len(catalogue)} items with {spec.reads} vectors of width {width}: none of them fits the "
            f"model, which was trained with {len(known)} others of width {spec.text_width}"
        )
    rows = bucket_of(tuple(known), spec.buckets)
    new = np.flatnonzero(old < 0)
    bucket = np.where(old >= 0, rows[old], 0)
    bucket[new] = spec.buckets + np.arange(len(new))
    near = _nearest(catalogue.groups["text"], new, int((old >= 0).sum()), neighbours)
    larger = replace(spec, buckets=spec.buckets + len(new))
    flat = np.empty(larger.size, np.float32)
    before = unpack(spec, parameters)
    popularity = log_popularity_of(spec, parameters, prior)
    welcome = float(np.quantile(popularity, WELCOME))
    for name, part in unpack(larger, flat).items():
        part[: len(before[name])] = before[name]
        if len(part) > len(before[name]):
            part[len(before[name]) :] = _like(name, before[name], popularity, welcome, bucket[near])
    return Grown(larger, flat, np.append(prior, np.full(len(new), welcome)).astype(np.float32), bucket)


def _like(name: str, part: Floats, popularity: Floats, welcome: float, rows: NDArray[np.int64]) -> Floats:
    """(new, ...): a part of the parameters for items like those in (new, neighbours) rows, popular as ``welcome``."""
    if name == "bias":  # the prior says it all
        return np.zeros(len(rows), np.float32)
    if name != "target":
        return np.asarray(part[rows].mean(axis=1), np.float32)
    shares = np.exp(popularity - welcome)[rows]
    return np.asarray(part[rows].sum(axis=1) / shares.sum(axis=1, keepdims=True), np.float32)


def _nearest(text: Floats, new: NDArray[np.int64], known: int, count: int) -> NDArray[np.int64]:
    """(new, count) items that are not new by cosine of the texts, nearest first; ties by the earlier item."""
    count = min(count, known)
    out = np.zeros((len(new), count), np.int64)
    step = max(1, CHUNK // len(text))
    for start in range(0, len(new), step):
        near = text[new[start : start + step]] @ text.T
        near[:, new] = -np.inf
        bars = -np.partition(-near, count - 1, axis=1)[:, count - 1]
        for at, (row, bar) in enumerate(zip(near, bars, strict=True), start):
            best = np.flatnonzero(row >= bar)
            out[at] = best[np.argsort(-row[best], kind="stable")[:count]]
    return out

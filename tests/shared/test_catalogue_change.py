"""A catalogue's changes: exact, composable, small, and refused wherever they do not belong."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.catalogue import Catalogue, catalogue_bytes, catalogue_of
from shared.catalogue_change import (
    apply_change,
    change_between,
    change_bytes,
    change_of,
    composed,
    joined,
    part_of,
)
from shared.errors import DataError
from shared.files import arrays_of_bytes, bytes_of_arrays
from shared.recall.quantised import quantise, unit_rows_of

WIDTH = 3
NOBODY = "0" * 64


def rows_of(words, *, whole=False):
    """The same rows for the same words, as a basis gives them."""
    if not words:
        return np.zeros((0, WIDTH), np.float32)
    raw = np.array([np.random.default_rng([*word.encode(), 1]).normal(size=WIDTH) for word in words])
    unit = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return unit_rows_of(quantise(unit).values) if whole else unit


def made(items, *, whole=False):
    """A catalogue of (id, edition) pairs; another edition of an id has other words and vectors."""
    words = tuple(f"{name} {edition}" for name, edition in items)
    vectors = rows_of(words, whole=whole)
    kinds = tuple((f"kind {edition}",) for _, edition in items)
    return Catalogue(
        tuple(name for name, _ in items), words, words, kinds, {"text": vectors, "lexical": vectors[:, ::-1].copy()}
    )


def listed(catalogue):
    return [(name, int(text.split()[-1])) for name, text in zip(catalogue.ids, catalogue.texts, strict=True)]


items = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), unique_by=lambda item: item[0], max_size=8)


@settings(deadline=None)
@given(items, items, st.booleans())
def test_a_change_between_two_catalogues_makes_one_of_the_other_in_whatever_order(before, after, whole):
    old, new = made(before, whole=whole), made(after, whole=whole)
    change = change_of(change_bytes(change_between(old, new)), "wire")
    result = apply_change(old, change)
    assert listed(result) == after
    assert result.version() == new.version()


@settings(deadline=None)
@given(st.lists(items, min_size=2, max_size=5))
def test_changes_over_several_versions_are_one_change(editions):
    catalogues = [made(edition) for edition in editions]
    changes = [change_between(one, other) for one, other in itertools.pairwise(catalogues)]
    whole = changes[0]
    for change in changes[1:]:
        whole = composed(whole, change)
    result = apply_change(catalogues[0], change_of(change_bytes(whole), "wire"))
    assert result.version() == catalogues[-1].version()


@settings(deadline=None)
@given(items, items)
def test_what_stayed_is_not_sent_again(before, after):
    """A catalogue whose items left and came at the end: neither more nor less than these."""
    names = {name for name, _ in before}
    stay = [item for item in before if item in after]
    came = [item for item in after if item[0] not in names]
    change = change_between(made(before), made(stay + came))
    assert set(change.removed) == names - {name for name, _ in stay}
    assert list(change.added.ids) == [name for name, _ in came]


def test_a_change_for_another_version_is_refused():
    one, other = made([("a", 0), ("b", 0)]), made([("a", 0), ("c", 0)])
    change = change_between(one, made([("a", 0)]))
    with pytest.raises(DataError, match=r"it is for version .*…, the catalogue here is .*…; fetch the whole catalogue"):
        apply_change(other, change)
    with pytest.raises(DataError, match=r"one ends at version .*…, the next begins at"):
        composed(change, change)


def test_a_change_that_does_not_give_what_it_says_is_refused():
    old, new = made([("a", 0), ("b", 0)]), made([("a", 0), ("c", 0)])
    change = change_between(old, new)
    for lie, sentence in [
        ({"version": NOBODY}, "what comes of it is not version 000000000000…"),
        ({"removed": ()}, "what comes of it is not version"),
        ({"removed": ("b", "b")}, "removes an item twice, or one that the catalogue does not have"),
        ({"removed": ("b", "x")}, "removes an item twice, or one that the catalogue does not have"),
        ({"added": made([("a", 1)])}, "'a' appears twice"),
        ({"added": dataclasses.replace(change.added, groups={})}, "other directions"),
    ]:
        with pytest.raises(DataError, match=sentence):
            apply_change(old, dataclasses.replace(change, **lie))


def test_catalogues_of_other_directions_have_no_change_between_them():
    one = made([("a", 0)])
    wider = dataclasses.replace(one, groups={**one.groups, "text": np.eye(1, 5, dtype=np.float32)})
    with pytest.raises(DataError, match=r"'text': 3.*'text': 5.*fetch the whole catalogue"):
        change_between(one, wider)


def test_a_sign_of_zero_counts_as_a_change():
    one = made([("a", 0)])
    plus, minus = (dataclasses.replace(one, groups={"text": np.array([[1, z, 0]], np.float32)}) for z in (0.0, -0.0))
    assert change_between(plus, minus).removed == ("a",)
    assert apply_change(plus, change_between(plus, minus)).version() == minus.version()


def test_a_whole_catalogue_travels_as_bytes_too():
    catalogue = made([("a", 0), ("b", 2)])
    assert catalogue_of(catalogue_bytes(catalogue), "wire").version() == catalogue.version()


def test_rows_that_bytes_hold_travel_as_bytes():
    wide = rows_of([f"{n}" for n in range(60)], whole=True)
    names = tuple(map(str, range(60)))
    catalogue = Catalogue(names, names, names, ((),) * 60, {"text": wide})
    change = change_between(part_of(catalogue, np.arange(1)), catalogue)
    assert arrays_of_bytes(change_bytes(change), "wire")["group/text"].dtype == np.int8


def test_joined_parts_are_the_whole():
    catalogue = made([("a", 0), ("b", 1), ("c", 2)])
    parts = part_of(catalogue, np.arange(2)), part_of(catalogue, np.arange(2, 3))
    assert joined(*parts).version() == catalogue.version()


GOOD = change_bytes(change_between(made([("a", 0), ("b", 0)]), made([("a", 0), ("c", 1), ("d", 0)])))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_bytes_are_a_sentence_or_harmless(data):
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for read in (change_of, catalogue_of):
        with contextlib.suppress(DataError):  # anything else fails the test
            read(content, "wire")


def forged(**changes):
    """The good change with other arrays; numbers are written as they are."""
    return bytes_of_arrays(arrays_of_bytes(GOOD, "wire") | changes)


def text(content):
    return np.frombuffer(content if isinstance(content, bytes) else json.dumps(content).encode(), np.uint8)


SAID = {"base": NOBODY, "version": NOBODY, "removed": []}
WORDS = {"ids": ["c"], "titles": ["c"], "texts": ["c"], "categories": [[]]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"not an archive",
        catalogue_bytes(made([("a", 0)])),
        forged(format=text(b"fedrecall-catalogue-change-2")),
        forged(said=text(b"{}")),
        forged(said=text(b"[" * 100_000)),
        forged(said=text(b"\xff\xfe")),
        forged(said=text(SAID | {"base": 1})),
        forged(said=text(SAID | {"base": "é" * 64})),
        forged(said=text(SAID | {"version": "0" * 63})),
        forged(said=text(SAID | {"removed": "abc"})),
        forged(said=text(SAID | {"removed": [1]})),
        forged(said=text(SAID | {"removed": ["\ud800"]})),
        forged(said=np.array("text")),
        forged(words=text(WORDS)),
        forged(words=text(WORDS | {"ids": ["c", "c"]})),
        forged(words=text(WORDS | {"categories": [None]})),
        forged(words=text(b"1e999")),
        forged(**{"group/text": np.full((2, WIDTH), np.nan, np.float32)}),
        forged(**{"group/text": np.full((2, WIDTH), np.inf, np.float32)}),
        forged(**{"group/text": np.full((2, WIDTH), 3e38, np.float32)}),
        forged(**{"group/text": np.zeros((2, WIDTH, 1), np.float32)}),
        forged(**{"group/text": np.zeros((2, WIDTH), np.float64)}),
        forged(**{"group/text": np.zeros((2, WIDTH), "<U4")}),
        forged(**{"group/text": np.float32(1.0)}),
        forged(**{"group/text": np.zeros((3, WIDTH), np.float32)}),
    ],
)
def test_hostile_bytes_are_a_sentence(content):
    with pytest.raises(DataError):
        change_of(content, "wire")


def rewritten(change):
    """The good change with its members written anew."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive, zipfile.ZipFile(out, "w") as copy:
        for member in archive.infolist():
            change(copy, member, archive.read(member))
    return out.getvalue()


def test_bytes_that_would_swell_are_refused():
    bomb = rewritten(lambda copy, member, raw: copy.writestr(member.filename, raw, zipfile.ZIP_DEFLATED))
    with pytest.raises(DataError, match="compressed arrays are not taken"):
        change_of(bomb, "wire")


def test_an_array_that_says_it_is_huge_is_refused():
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 99999999), }"
    header = header.ljust(127) + b"\n"

    def lie(copy, member, raw):
        copy.writestr(member.filename, header if member.filename == "group/text.npy" else raw)

    with pytest.raises(DataError, match="not a readable"):
        change_of(rewritten(lie), "wire")


def test_pickled_arrays_are_never_opened():
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    buffer = io.BytesIO()
    np.savez(buffer, format=np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable"):
        change_of(buffer.getvalue(), "wire")

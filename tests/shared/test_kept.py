from __future__ import annotations

import numpy as np
import pytest

from shared.kept import code_of, kept, key_of


@pytest.fixture
def maker():
    """Something that takes long, and how often it was asked."""
    calls = []

    def make():
        calls.append(1)
        return {"rows": np.array([1.0, np.nan, -0.0], np.float32)}

    return make, calls


def whole(arrays):
    return set(arrays) == {"rows"} and arrays["rows"].shape == (3,)


def test_what_was_made_once_is_read_again_bit_for_bit(maker, tmp_path):
    make, calls = maker
    one, other = (kept(tmp_path / "new" / "a.npz", make, whole) for _ in range(2))
    assert len(calls) == 1
    assert one["rows"].tobytes() == other["rows"].tobytes()
    assert one["rows"].dtype == other["rows"].dtype


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:100], lambda raw: raw.replace(b"\x80\x3f", b"\x80\x40"), bytes.upper]
)
def test_a_damaged_file_is_made_anew_and_replaced(maker, tmp_path, damage):
    make, calls = maker
    path = tmp_path / "a.npz"
    kept(path, make, whole)
    good = path.read_bytes()
    assert damage(good) != good
    path.write_bytes(damage(good))
    assert kept(path, make, whole)["rows"][0] == 1
    assert len(calls) == 2
    assert path.read_bytes() == good


def test_what_does_not_fit_is_made_anew(maker, tmp_path):
    make, calls = maker
    for fits in (whole, lambda _arrays: False):
        kept(tmp_path / "a.npz", make, fits)
    assert len(calls) == 2


def test_what_is_too_large_is_not_kept(maker, tmp_path):
    make, _ = maker
    kept(tmp_path / "a.npz", make, whole, largest=11)
    assert list(tmp_path.iterdir()) == []
    kept(tmp_path / "a.npz", make, whole, largest=12)
    assert (tmp_path / "a.npz").exists()


def test_a_cache_that_cannot_be_written_stops_nothing(maker, tmp_path):
    make, _ = maker
    (tmp_path / "file").write_text("no folder")
    assert whole(kept(tmp_path / "file" / "a.npz", make, whole))


def test_a_key_tells_parts_apart():
    keys = [key_of(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"], [b"ab", b"c", b""])]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key_of(iter([b"ab", b"c"]))


def test_code_is_the_source_and_the_library(monkeypatch):
    before = code_of("shared.kept")
    assert b"def code_of" in before[1]
    monkeypatch.setattr(np, "__version__", "another")
    assert code_of("shared.kept") != before

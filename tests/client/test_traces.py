from __future__ import annotations

import os

import pytest

from client.traces import STRIDE, database_files, found_in, probes


def test_a_remnant_is_found_at_any_offset_and_across_chunks():
    text = os.urandom(2048)
    sought = probes([text])
    assert len(sought) == 8
    for before in (0, 1, 7, 100, (1 << 22) - 3, (1 << 22) - 300):
        assert found_in(bytes(before) + text + bytes(5), sought) == 8
    assert found_in(bytes(1000), sought) == 0


@pytest.mark.parametrize("start", [0, 1, 200, 255])
def test_any_piece_of_the_length_of_a_stride_and_seven_bytes_is_found(start):
    text = os.urandom(2048)
    assert found_in(text[start : start + STRIDE + 7], probes([text])) >= 1


def test_nothing_sought_or_nothing_there_is_nothing_found():
    assert found_in(b"", probes([os.urandom(64)])) == 0
    assert found_in(b"short", probes([os.urandom(64)])) == 0
    assert found_in(os.urandom(64), probes([])) == 0
    assert found_in(os.urandom(64), probes([b"short"])) == 0


def test_the_files_of_a_database_are_those_that_are_there(tmp_path):
    assert database_files(tmp_path / "a.db") == ()
    for name in ("a.db", "a.db-wal", "b.db"):
        (tmp_path / name).touch()
    assert [path.name for path in database_files(tmp_path / "a.db")] == ["a.db", "a.db-wal"]

"""Many things by number: they act as what they stand for, and make nothing before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.numbered import Lazily, Numbered, names


def refuse(_number):
    raise AssertionError("made without being asked for")


@given(st.integers(0, 30), st.one_of(st.text("0123456789ab-", max_size=4), st.integers(), st.none()))
def test_a_numbered_mapping_is_the_dictionary_of_its_names(count, name):
    twin = {str(number): 2 * number for number in range(1, count + 1)}
    made = Numbered(count, lambda number: 2 * number)
    assert dict(made) == twin
    assert len(made) == len(twin)
    assert (name in made) == (name in twin)
    assert made.get(name) == twin.get(name)


@pytest.mark.parametrize("name", ["0", "01", "3", "-1", "", "x", "²", 1, "9" * 5000])
def test_a_number_has_one_spelling_and_no_other_name_is_known(name):
    with pytest.raises(KeyError):
        Numbered(2, int)[name]


def test_names_of_a_mapping_can_be_had_by_place_and_nothing_is_made_for_them():
    keys = Numbered(1_000_000, refuse).keys()
    assert isinstance(keys, Sequence)
    assert (keys[0], keys[-1], list(keys[3:5])) == ("1", "1000000", ["4", "5"])
    assert "1000000" in keys
    assert "1000001" not in keys


@given(st.integers(0, 20), st.slices(20))
def test_a_lazy_sequence_is_the_tuple_that_it_stands_for(count, part):
    twin = tuple(range(0, 3 * count, 3))
    made = Lazily(count, lambda place: 3 * place)
    assert tuple(made) == twin
    assert made[part] == twin[part]


def test_a_place_that_is_not_there_is_an_index_error():
    with pytest.raises(IndexError):
        names(3)[3]

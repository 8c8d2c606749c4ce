"""Seeds exist for simulations only; a draw is fixed by its name, not by when it happens."""

from __future__ import annotations

import numpy as np

from simulations.seeding import client_randomness, generator, noise, signing_key


def test_a_draw_depends_on_its_name_alone():
    first, again, other = (generator(3, "user", name, 5).random(4) for name in ("u", "u", "v"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_noise_is_named_for_what_it_is():
    assert noise(3, "a").name == "seeded"
    assert noise(None, "a").name == "os"
    assert client_randomness(None).noise("c", 1, "update").name == "os"


def test_noise_repeats_with_a_seed_and_never_without():
    assert np.array_equal(noise(3, "a").words(8), noise(3, "a").words(8))
    assert not np.array_equal(noise(3, "a").words(8), noise(3, "b").words(8))
    assert not np.array_equal(noise(None, "a").words(8), noise(None, "a").words(8))


def test_a_stream_goes_on_where_it_was_and_begins_with_the_first_draw(monkeypatch):
    whole = noise(3, "a").words(8)
    source = noise(3, "a")
    monkeypatch.setattr(np.random, "SFC64", counted := Counted(np.random.SFC64))
    assert (source.name, counted.calls) == ("seeded", 0)
    assert np.concatenate([source.words(3), source.words(5)]).tolist() == whole.tolist()
    assert counted.calls == 1


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_each_client_round_and_release_has_noise_of_its_own():
    chance = client_randomness(0)
    names = [("1", 1, "update"), ("2", 1, "update"), ("1", 2, "update"), ("1", 1, "measurement")]
    drawn = {chance.noise(*name).words(4).tobytes() for name in names}
    assert len(drawn) == len(names)


def test_a_seeded_key_repeats_and_roles_differ():
    assert signing_key(1, "server").private_bytes_raw() == signing_key(1, "server").private_bytes_raw()
    assert signing_key(1, "server").private_bytes_raw() != signing_key(1, "clients").private_bytes_raw()
    assert signing_key(None, "server") is None

"""What a device takes from its server for serving: numbers rise, catalogues are what they say, all of it or nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.published import KEPT, RESERVE, catalogue_path, current, current_path, present, take
from client.trends import read_trending
from shared.catalogue import catalogue_bytes, load_catalogue
from shared.catalogue_change import change_between, change_bytes
from shared.encoder.spec import EncoderSpec
from shared.errors import DataError, ProtocolError
from shared.privacy.chain import public_hex
from shared.publication import Publication, PublishedModel, publication_record
from shared.recall.item_rules import NO_RULES, ItemRules

SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
KEY = public_hex(SERVER)
TIP = "5" * 64
SPEC = EncoderSpec(text_width=16, rank=4, buckets=48)


@pytest.fixture
def home(device):
    """A device without a catalogue."""
    made, _ = device
    for path in made.catalogues.iterdir():
        path.unlink()
    return made


def whole(catalogue, number=1, **changes):
    first = Publication(number, "run", 3, "", catalogue.version(), catalogue_bytes(catalogue), (), (), b"", None)
    return replace(first, **changes)


def taken(home, issue):
    return take(home, publication_record(issue, SERVER, TIP), KEY)


def shorter(catalogue, items):
    from shared.catalogue_change import part_of

    return part_of(catalogue, np.arange(items))


@pytest.fixture
def model(catalogue, policy):
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=SPEC.size).astype(np.float32)
    prior = np.linspace(-1, 1, 48).astype(np.float32)
    return PublishedModel(SPEC, parameters, prior, catalogue.version(), policy(), ItemRules(blocked=("i3",)))


def test_what_was_taken_comes_back_as_it_was(home, catalogue, model):
    issue = whole(catalogue, unavailable=("i1",), trending=("i3", "i2"), registration=bytes(64), model=model)
    taken(home, issue)
    now = current(home)
    assert replace(now, model=None) == replace(issue, change=b"", model=None)
    assert np.array_equal(now.model.parameters, model.parameters)
    assert np.array_equal(now.model.prior, model.prior)
    assert (now.model.spec, now.model.policy, now.model.rules) == (model.spec, model.policy, model.rules)
    assert load_catalogue(catalogue_path(home, catalogue.version())).version() == catalogue.version()
    assert read_trending(home).items == ("i3", "i2")
    assert (home.folder / "registration").read_text() == "00" * 64


def test_numbers_rise_and_the_same_again_changes_nothing(home, catalogue):
    taken(home, whole(catalogue, 5, trending=("i1",)))
    before = current_path(home).stat().st_mtime_ns
    assert taken(home, whole(catalogue, 5, trending=("i9",))).trending == ("i1",)
    with pytest.raises(ProtocolError, match="4: 5 was taken already"):
        taken(home, whole(catalogue, 4))
    assert current_path(home).stat().st_mtime_ns == before
    taken(home, whole(catalogue, 6, change=b"", base=catalogue.version(), trending=("i2",)))
    assert current(home).trending == read_trending(home).items == ("i2",)


def test_a_change_is_applied_to_the_catalogue_that_is_here(home, catalogue):
    first = shorter(catalogue, 40)
    taken(home, whole(first))
    change = change_bytes(change_between(first, catalogue))
    taken(home, whole(catalogue, 2, base=first.version(), change=change))
    assert load_catalogue(catalogue_path(home, catalogue.version())).ids == catalogue.ids
    assert present(home) == {first.version(), catalogue.version()}


def test_catalogues_that_are_missing_or_lie_are_refused_and_nothing_changes(home, catalogue, model):
    first = shorter(catalogue, 40)
    change = change_bytes(change_between(first, catalogue))
    for issue, why in (
        (whole(catalogue, base=first.version(), change=change), "a change of catalogue"),
        (whole(catalogue, base=catalogue.version(), change=b""), "brings no catalogue"),
        (replace(whole(first), catalogue=catalogue.version()), "another catalogue than"),
        (whole(catalogue, change=b"PK\3\4nonsense"), "publication 1"),
        (whole(first, model=model), "trained with is not here"),
    ):
        with pytest.raises(DataError, match=why):
            taken(home, issue)
        assert current(home) is None
        assert read_trending(home).number == 0


def test_catalogues_of_runs_that_may_go_on_stay_and_older_ones_go(home, catalogue):
    import os

    versions = []
    for number in range(1, 8):
        one = shorter(catalogue, 40 + number)
        taken(home, whole(one, number))
        os.utime(catalogue_path(home, one.version()), (number, number))
        versions.append(one.version())
    assert present(home) == set(versions[-KEPT - 1 :])


@pytest.mark.parametrize("at", ["save_catalogue", "write_trending", "write_arrays"])
def test_a_disk_that_fills_up_anywhere_leaves_what_was_in_force(at, home, catalogue, monkeypatch):
    first = shorter(catalogue, 40)
    taken(home, whole(first))

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"client.published.{at}", full)
        with pytest.raises(OSError, match="No space"):
            taken(home, whole(catalogue, 2))
        assert current(home).number == 1
    assert taken(home, whole(catalogue, 2)).number == 2


def test_a_broken_file_is_named(home, catalogue):
    taken(home, whole(catalogue))
    current_path(home).write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"current\.npz"):
        current(home)


def test_no_rules_are_rules_too(home, catalogue, model):
    taken(home, whole(catalogue, model=replace(model, rules=NO_RULES)))
    assert current(home).model.rules == NO_RULES


def test_publications_that_are_refused_leave_no_catalogue_on_the_disk(home, catalogue, model):
    """Else a server could fill a disk with them."""
    for items in range(40, 44):
        with pytest.raises(DataError, match="trained with is not here"):
            taken(home, whole(shorter(catalogue, items), model=model))
    assert present(home) == set()


def test_a_model_may_come_with_the_catalogue_that_it_was_trained_with(home, catalogue, model):
    assert taken(home, whole(catalogue, model=model)).model.trained == catalogue.version()


def test_drafts_of_a_worker_that_was_killed_are_deleted(home, catalogue):
    home.catalogues.mkdir(exist_ok=True)
    (home.catalogues / ".x.npz.123.new").write_bytes(bytes(100))
    taken(home, whole(catalogue))
    assert sorted(home.catalogues.iterdir()) == [catalogue_path(home, catalogue.version())]


def test_the_last_room_on_a_disk_is_the_persons(home, catalogue, monkeypatch):
    monkeypatch.setattr("client.published.shutil.disk_usage", lambda _folder: SimpleNamespace(free=RESERVE))
    with pytest.raises(OSError, match=f"{RESERVE} bytes are free"):
        taken(home, whole(catalogue))
    assert present(home) == set()

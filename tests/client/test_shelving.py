"""A shelf follows the publication in force, is replaced whole, and says what is broken."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import shelving
from client.home import Home
from client.mapped import NOBODY, id_hash, rows_of
from client.newcomers import grown
from client.published import catalogue_path, take
from client.recommending import shelf_of
from client.shelving import build, build_in_child, open_shelf, read_current, ready_to_serve
from shared.catalogue import Catalogue, save_catalogue
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.errors import DataError
from shared.privacy.ledger import public_hex
from shared.publication import Publication, PublishedModel, publication_record
from shared.recall.item_rules import ItemRules

SPEC = EncoderSpec(text_width=16, rank=16, buckets=48, kind="linear")
SERVER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
RULES = ItemRules(("i40", "not there"), (), {"i46": 18})


@pytest.fixture
def home(tmp_path):
    (tmp_path / "device.toml").write_text("", encoding="utf-8")
    return Home(tmp_path)


@pytest.fixture
def model(catalogue, policy):
    rng = np.random.default_rng(1)
    parameters = initial_parameters(SPEC, rng) + rng.normal(size=SPEC.size).astype(np.float32)
    prior = np.linspace(-1, 1, 48).astype(np.float32)
    return PublishedModel(SPEC, parameters, prior, catalogue.version(), policy(), RULES)


def publish(home, catalogue, number, model=None, **changes):
    """Put an issue in force."""
    version = catalogue.version()
    save_catalogue(catalogue, catalogue_path(home, version))
    issue = Publication(number, "run", number, version, version, b"", ("i5",), ("i7",), b"", model)
    take(home, publication_record(replace(issue, **changes), SERVER, "0" * 64), public_hex(SERVER))


def folders(home):
    return sorted(path.name for path in home.shelf.iterdir() if path.is_dir())


def test_before_the_first_publication_there_is_no_shelf(home):
    assert open_shelf(home) is None
    build(home)
    assert open_shelf(home) is None


def test_a_publication_without_a_model_gives_ids_titles_and_categories(home, catalogue):
    kinds = tuple((f"c{n % 4}", "all") for n in range(48))
    publish(home, replace(catalogue, categories=kinds, titles=("Ä € title", *catalogue.titles[1:])), 1)
    build(home)
    shelf = open_shelf(home)
    assert shelf.model is None
    assert len(shelf) == 48
    assert [shelf.ids[n] for n in range(48)] == list(catalogue.ids)
    assert shelf.titles[0] == "Ä € title"
    assert shelf.categories_of(6) == ("all", "c2")
    assert shelf.within(("c1", "c3")).tolist() == list(range(1, 48, 2))
    assert [shelf.find(name) for name in ("i0", "i47", "i48", "")] == [0, 47, NOBODY, NOBODY]
    assert shelf.found(("i9", "gone", "i2")).tolist() == [9, 2]


def test_ids_of_one_hash_are_told_apart(home, catalogue, monkeypatch):
    monkeypatch.setattr("client.shelf_files.id_hash", lambda _: np.uint64(7))
    monkeypatch.setattr("client.mapped.id_hash", lambda _: np.uint64(7))
    publish(home, catalogue, 1)
    build(home)
    shelf = open_shelf(home)
    assert [shelf.find(name) for name in ("i0", "i30", "i48")] == [0, 30, NOBODY]


def test_a_shelf_holds_the_model_as_it_scores(home, catalogue, model):
    publish(home, catalogue, 1, model)
    build(home)
    shelf = open_shelf(home)
    whole = shelf_of(SPEC, model.parameters, model.prior, catalogue, rules=RULES)
    rows = rows_of(shelf.model, np.arange(48))
    assert np.array_equal(rows.items["text"], whole.items["text"])
    assert np.array_equal(rows.context, whole.context)
    assert np.array_equal(rows.popularity, whole.popularity)
    assert rows.scale == whole.scale
    assert shelf.barred.tolist() == [40, 46]
    assert shelf.model.popular[:2].tolist() == [47, 45]  # 46 is barred
    assert (shelf.model.run, shelf.model.round, shelf.model.policy) == ("run", 1, model.policy)


def test_only_what_changes_a_shelf_makes_a_new_one_and_the_old_one_goes(home, catalogue, model):
    publish(home, catalogue, 1, model)
    build(home)
    first = folders(home)
    publish(home, catalogue, 2, model, round=1, unavailable=("i9",))
    build(home)
    assert folders(home) == first
    assert (read_current(home).number, read_current(home).unavailable) == (2, ("i9",))
    publish(home, catalogue, 3, replace(model, policy=replace(model.policy, version=2)), round=1)
    build(home)
    second = folders(home)
    assert len(second) == 1
    assert second != first
    publish(home, catalogue, 4, replace(model, parameters=-model.parameters), round=1)
    build(home)
    assert folders(home) not in (first, second)


def test_a_shelf_that_is_open_serves_on_when_another_takes_its_place(home, catalogue, model):
    publish(home, catalogue, 1, model)
    build(home)
    old = open_shelf(home)
    before = old.model.popularity[:].copy()
    publish(home, catalogue, 2, replace(model, prior=-model.prior))
    build(home)
    assert np.array_equal(old.model.popularity[:], before)
    assert np.array_equal(open_shelf(home).model.popularity[:], -before)


def test_new_items_are_served_under_the_older_model(home, catalogue, model):
    rng = np.random.default_rng(4)
    text = rng.normal(size=(2, 16)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    more = {"text": text, "compact": text, "lexical": catalogue.groups["lexical"][:2]}
    more["category"] = catalogue.groups["category"][:2]
    ids = (*catalogue.ids[1:], "new1", "new2")
    later = Catalogue(
        ids, ids, ids, ((),) * 49, {g: np.concatenate([v[1:], more[g]]) for g, v in catalogue.groups.items()}
    )
    priced = replace(model, policy=replace(model.policy, exposure_prices=tuple(range(48))))
    publish(home, catalogue, 1, priced)
    publish(home, later, 2, priced)
    build(home)
    shelf = open_shelf(home)
    assert (shelf.find("i0"), shelf.find("new2")) == (NOBODY, 48)
    larger = grown(SPEC, model.parameters, model.prior, catalogue.ids, later)
    whole = shelf_of(larger.spec, larger.parameters, larger.prior, later, bucket=larger.bucket)
    assert np.array_equal(rows_of(shelf.model, np.arange(49)).items["text"], whole.items["text"])
    assert shelf.model.price[[0, 46, 47, 48]] == pytest.approx([0.01, 0.47, 0.0, 0.0])


def test_a_model_of_another_catalogue_is_refused_and_the_old_shelf_serves_on(home, catalogue, model):
    publish(home, catalogue, 1, model)
    build(home)
    stranger = replace(catalogue, ids=tuple(f"x{n}" for n in range(48)))
    with pytest.raises(DataError, match="none of them fits"):
        ready_to_serve(model, catalogue.ids, stranger)
    publish(home, stranger, 2, model)
    with pytest.raises(DataError, match="none of them fits"):
        build_in_child(home)
    assert open_shelf(home).ids[0] == "i0"
    assert len(folders(home)) == 1


def test_a_child_process_builds_and_tells_what_it_took(home, catalogue, model):
    publish(home, catalogue, 1, model)
    build_in_child(home)
    shelf = open_shelf(home)
    about = json.loads((home.shelf / shelf.name / "about.json").read_bytes())
    assert about["peak_mib"] > 20
    assert shelf.model.round == 1


def test_titles_and_categories_move_no_cursor_and_what_no_event_can_name_is_never_shown(home, catalogue, model):
    kinds = (("a\x1b[2Jb",), *((f"c{n}",) for n in range(47)))
    ids = ("i\x1b[2J", "i" * 201, *catalogue.ids[2:])
    hostile = replace(catalogue, ids=ids, titles=("\x1b]0;x\x07Title", *catalogue.titles[1:]), categories=kinds)
    publish(home, hostile, 1, replace(model, trained=hostile.version()))
    build(home)
    shelf = open_shelf(home)
    assert shelf.titles[0] == " ]0;x Title"
    assert shelf.categories_of(0) == ("a [2Jb",)
    assert shelf.barred.tolist() == [0, 1, 40, 46]
    assert not {0, 1} & set(shelf.model.popular.tolist())


def test_a_shelf_with_a_graph_serves_where_usearch_is_gone(home, catalogue, model, monkeypatch):
    monkeypatch.setattr("client.shelf_files.LOOKED_THROUGH", 10)
    publish(home, catalogue, 1, model)
    build(home)
    assert open_shelf(home).model.graph is not None
    monkeypatch.setattr("client.mapped.has_graphs", lambda: False)
    assert open_shelf(home).model.graph is None


def test_a_draft_of_a_process_that_was_killed_is_in_nobodys_way(home, catalogue, model, monkeypatch):
    publish(home, catalogue, 1, model)
    monkeypatch.setattr("client.shelf_files._sync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(home)
    monkeypatch.undo()
    assert open_shelf(home) is None
    build(home)
    assert folders(home) == [open_shelf(home).name]


@pytest.mark.parametrize("name", ["about.json", "place.npy", "categories.json", "group.text.npy"])
@pytest.mark.parametrize("content", [None, b"{}", b""])
def test_a_broken_shelf_says_so(home, catalogue, model, name, content):
    publish(home, catalogue, 1, model)
    build(home)
    (folder,) = folders(home)
    path = home.shelf / folder / name
    path.unlink() if content is None else path.write_bytes(content)
    if content == b"{}" and name == "categories.json":
        path.write_bytes(b"{")
    with pytest.raises(DataError, match="not a readable shelf"):
        open_shelf(home)


def test_a_shelf_that_is_replaced_while_it_is_opened_is_looked_for_again(home, catalogue, model, monkeypatch):
    publish(home, catalogue, 1, model)
    build(home)
    real, tries = shelving.open_folder, []

    def opened(folder):
        tries.append(folder)
        if len(tries) == 1:
            publish(home, catalogue, 2, model)
            build(home)
        return real(folder)

    monkeypatch.setattr("client.shelving.open_folder", opened)
    assert open_shelf(home).model.round == 2
    assert len(tries) == 2


def test_the_hash_of_an_id_is_what_shelves_on_disk_were_written_with():
    assert id_hash("i0") == np.uint64(0x7AF38095FD650CB3)

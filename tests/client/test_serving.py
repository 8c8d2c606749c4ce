"""A list from a mapped shelf: the one that is measured, under every wish, and never empty without saying why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.answers import Wish
from client.mapped import rows_of
from client.recommending import Personal, shown_to
from client.serving import Filter, Person, answered, candidates, scores_of
from shared.encoder.spec import KINDS_OF_ENCODER
from shared.errors import ConfigError, DataError
from shared.history import NOT_INTERESTED
from shared.recall.item_rules import ItemRules

ITEMS = 48
RULES = ItemRules(("i40",), ("i47",), {"i46": 18})


def rng():
    return np.random.default_rng(0)


@pytest.fixture
def empty(history):
    return history(1, 0, 0)


@pytest.mark.parametrize("kind", KINDS_OF_ENCODER)
@pytest.mark.parametrize("similarity", ["dot", "cosine", "euclidean"])
def test_a_served_list_is_the_one_that_is_measured(serving, history, kind, similarity):
    changes = {"similarity": dict.fromkeys(("text", "lexical", "category"), similarity), "diversity": 0.3}
    mapped, shelf = serving(kind, rules=RULES, exposure_price=1.0, **changes)
    one = history(4)
    personal = Personal(np.full(16, 0.2, np.float32), {"lexical": 0.5})
    shown = shown_to(shelf, mapped.model.policy, one, rng(), personal=personal)
    offers = answered(mapped, Person(one, personal), Wish(), rng()).offers
    assert [offer.id for offer in offers] == [f"i{item}" for item in shown.item]
    assert [offer.score for offer in offers] == pytest.approx(shown.score.tolist(), abs=1e-4)
    for place, offer in enumerate(offers):
        parts = {name: part[place] for name, part in shown.parts.items()}
        assert offer.parts == pytest.approx(parts, abs=1e-4)


wishes = st.builds(
    Wish,
    k=st.one_of(st.none(), st.integers(1, 60)),
    categories=st.sets(st.sampled_from(("c0", "c1", "c2", "c3"))).map(lambda some: tuple(sorted(some))),
    available_only=st.booleans(),
    exclude_seen=st.booleans(),
    still_allowed=st.sets(st.integers(0, ITEMS - 1)).map(lambda some: tuple(f"i{n}" for n in some)),
    diversity=st.one_of(st.none(), st.floats(0, 1)),
    similar_to=st.one_of(st.none(), st.integers(0, ITEMS - 1).map(lambda n: f"i{n}")),
    explore=st.booleans(),
)


@given(wish=wishes, seed=st.integers(0, 50), length=st.sampled_from((0, 1, 12)), bare=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_list_holds_what_the_wish_allows_and_is_as_long_as_it_can_be(serving, history, wish, seed, length, bare):
    mapped, _ = serving(rules=RULES, bare=bare, exploration=0.2)
    one = history(seed, length, 0)
    person = Person(one, None, np.array([7, 3]), np.array([5, 9]))
    ids = [offer.id for offer in answered(mapped, person, wish, rng()).offers]

    down, seen = (set(one.item[rows].tolist()) for rows in (one.kind == NOT_INTERESTED, slice(None)))
    never = {40, 46, 47} | down
    never |= (seen - {int(name[1:]) for name in wish.still_allowed}) if wish.exclude_seen else set()
    never |= {5, 9} if wish.available_only else set()
    never |= {int(wish.similar_to[1:])} if wish.similar_to else set()
    allowed = [n for n in range(ITEMS) if n not in never and (not wish.categories or f"c{n % 4}" in wish.categories)]
    k = wish.k or (20 if bare else 10)
    assert len(set(ids)) == len(ids) == min(k, len(allowed))
    assert set(ids) <= {f"i{n}" for n in allowed}


def test_without_a_history_what_is_trending_comes_first_and_then_what_is_popular(serving, empty):
    mapped, _ = serving()
    answer = answered(mapped, Person(empty, None, np.array([7, 3])), Wish(k=4), rng())
    assert [(offer.id, offer.source) for offer in answer.offers] == [
        ("i7", "trending"),
        ("i3", "trending"),
        ("i47", "popular"),
        ("i46", "popular"),
    ]
    assert answer.why == "From what many people came to lately: nothing that you did is known here yet."
    assert answer.offers[2].parts["popularity"] == pytest.approx(1.0)


def test_without_a_history_and_trends_what_is_popular_comes_first(serving, empty):
    mapped, _ = serving()
    answer = answered(mapped, Person(empty), Wish(k=2, categories=("c1",)), rng())
    assert [(offer.id, offer.source) for offer in answer.offers] == [("i45", "popular"), ("i41", "popular")]
    assert answer.why == (
        "From what most people choose: nothing that you did is known here yet and nothing is known to be trending."
    )


@pytest.mark.parametrize("bare", [True, False])
def test_a_category_that_is_smaller_than_the_list_is_all_there_is(serving, empty, monkeypatch, bare):
    mapped, _ = serving(bare=bare)
    looked_at = []
    whole = Filter.__call__
    monkeypatch.setattr(Filter, "__call__", lambda self, item: looked_at.extend(item) or whole(self, item))
    offers = answered(mapped, Person(empty), Wish(k=40, categories=("c1",)), rng()).offers
    assert sorted(int(offer.id[1:]) for offer in offers) == list(range(1, ITEMS, 4))
    assert set(looked_at) == set(range(1, ITEMS, 4))


def test_without_a_model_what_is_newest_comes_first(serving, history):
    mapped, _ = serving(bare=True)
    answer = answered(mapped, Person(history(4)), Wish(k=2), rng())
    assert all(offer.source == "new" and offer.parts == {} for offer in answer.offers)
    assert answer.policy_version is answer.model_round is None
    assert answer.why == (
        "From what is newest in the catalogue: there is no model yet and nothing is known to be trending."
    )


def test_a_person_who_has_done_something_is_served_by_it(serving, history):
    mapped, _ = serving()
    answer = answered(mapped, Person(history(4), None, np.array([7, 3])), Wish(k=5), rng())
    assert {offer.source for offer in answer.offers} == {"you"}
    assert answer.why == "From what you did with 12 of the catalogue's items."
    assert (answer.policy_version, answer.model_round) == (1, 3)


def test_places_left_to_chance_say_so_unless_the_wish_says_no(serving, history):
    mapped, _ = serving(exploration=0.5)
    person = Person(history(4))
    assert "chance" in {offer.source for offer in answered(mapped, person, Wish(), rng()).offers}
    assert {offer.source for offer in answered(mapped, person, Wish(explore=False), rng()).offers} == {"you"}


def test_what_is_like_an_item_does_not_depend_on_the_person(serving, history):
    mapped, _ = serving()
    wish = Wish(k=5, similar_to="i12", exclude_seen=False)
    likings = [replace(history(seed), kind=np.ones(12, np.int8)) for seed in (4, 5)]
    first, second = (answered(mapped, Person(one), wish, rng()).offers for one in likings)
    assert [offer.id for offer in first] == [offer.id for offer in second]
    assert {offer.source for offer in first} == {"similar"}
    assert "popularity" not in first[0].parts


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        (Wish(k=0), ConfigError),
        (Wish(k=1001), ConfigError),
        (Wish(diversity=1.5), ConfigError),
        (Wish(similar_to="nobody"), DataError),
        (Wish(categories=("nothing",)), DataError),
    ],
)
@pytest.mark.parametrize("bare", [True, False])
def test_a_wish_that_cannot_be_is_refused(serving, history, wish, error, bare):
    with pytest.raises(error):
        answered(serving(bare=bare)[0], Person(history(4)), wish, rng())


def test_scores_of_fillers_are_those_of_the_model(serving, history):
    mapped, shelf = serving(exposure_price=1.0)
    person = Person(history(4))
    everything = replace(mapped.model.policy, k=ITEMS, depth=ITEMS)
    shown = shown_to(shelf, everything, person.history, rng())
    said = scores_of(mapped.model, everything, person, shown.item)
    assert [score for score, _ in said] == pytest.approx(shown.score.tolist(), abs=1e-4)


def test_rows_are_read_in_the_order_that_is_asked_for(serving):
    mapped, shelf = serving("mean")
    rows = rows_of(mapped.model, np.array([9, 2, 9]))
    for group in ("text", "lexical", "category"):
        assert np.array_equal(rows.items[group], shelf.items[group][[9, 2, 9]])
    assert np.array_equal(rows.context, shelf.context[[9, 2, 9]])


class _Graph:
    """A graph that finds the largest products, as usearch does, and counts how often it is asked."""

    def __init__(self, values):
        self.values, self.asked = values, []

    def search(self, vectors, count=10):
        self.asked.append(count)
        order = np.argsort(-(self.values.astype(int) @ vectors.astype(int)), kind="stable")[:count]
        return type("Found", (), {"keys": order.astype(np.uint64)})


@pytest.mark.parametrize("taken", [0, 400, 990])
@pytest.mark.parametrize("filtered", [None, 900, 100])
@pytest.mark.parametrize("few", [0, 2000])
def test_a_graph_is_asked_until_enough_is_allowed_or_every_row_is_looked_at(few, taken, filtered, serving, monkeypatch):
    monkeypatch.setattr("client.serving.LOOKED_THROUGH", few)
    chance = np.random.default_rng(2)
    values = chance.integers(-127, 128, (1000, 64)).astype(np.int8)
    query = chance.normal(size=64).astype(np.float32)
    model = replace(serving()[0].model, near=values, graph=_Graph(values))
    order = np.argsort(-(values.astype(np.float32) @ query), kind="stable")
    never = np.sort(order[:taken])
    within = None if filtered is None else np.sort(chance.permutation(1000)[:filtered])
    found = candidates(model, query, 20, Filter(never, within))
    allowed = [n for n in order if n not in never and (within is None or n in within)]
    want = set(allowed[:20])
    assert np.array_equal(found, np.unique(found))
    assert len(found) == len(want)
    assert len(model.graph.asked) <= (0 if few or filtered == 100 or (filtered is None and taken == 990) else 3)
    assert len(want & set(found.tolist())) >= 0.9 * len(want)  # the query in whole numbers is not quite the query

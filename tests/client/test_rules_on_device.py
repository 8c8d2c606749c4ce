"""Item rules on the device: what is barred is not shown, not measured and not learned, whatever the policy says."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.batch import BatchShape, draw
from client.contributions import People, contributions
from client.store import ClientStore, ages_of
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.history import NOT_INTERESTED, stacked
from shared.policy.recall_policy import GROUPS, RecallPolicy
from shared.privacy.noise import NoiseSource
from shared.protocol import Header, MeasureTask, TrainingTerms, TrainTask, layout_of
from shared.recall.item_rules import NO_RULES, ItemRules, barred, masks

# A failing example is shown with its catalogue; that it is long must not hide what failed.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

ITEMS = 48
SPECS = {kind: EncoderSpec(16, 16, ITEMS, kind) for kind in ("mean", "linear")}
PRIOR = np.linspace(-1, 1, ITEMS).astype(np.float32)
ids = st.sampled_from([f"i{n}" for n in range(ITEMS)])
some_rules = st.builds(
    ItemRules,
    blocked=st.lists(ids, unique=True, max_size=8).map(tuple),
    harmful=st.lists(ids, unique=True, max_size=8).map(tuple),
    min_age=st.dictionaries(ids, st.integers(1, 99), max_size=8),
)

ages = st.none() | st.integers(0, 99)


@st.composite
def policies(draw):
    return RecallPolicy(
        version=1,
        similarity={group: draw(st.sampled_from(["cosine", "dot", "euclidean"])) for group in GROUPS[:3]},
        weights={group: draw(st.floats(-1000, 1000, width=32)) for group in GROUPS},
        features=tuple(g for g in GROUPS if g == "text" or draw(st.booleans())),
        depth=draw(st.integers(1, 100)),
        local_iterations=1,
        exposure_price=draw(st.floats(0, 10)),
        diversity=draw(st.floats(0, 1)),
        exploration=draw(st.floats(0, 0.5)),
        k=draw(st.sampled_from([10, 25, 60])),
        exposure_prices=draw(st.just(()) | st.just(tuple(range(0, 1000, 20))[:ITEMS] + (0,) * max(0, ITEMS - 50))),
    )


@pytest.fixture(scope="session")
def header(catalogue):
    """``header(kind)`` of a task; of the plan, nothing matters here but who adds noise."""
    version = whole(catalogue).version()
    return lambda kind: Header("run", 1, 1, SimpleNamespace(trust="distributed"), version, SPECS[kind])


def whole(catalogue):
    return replace(catalogue, groups={**catalogue.groups, "compact": catalogue.groups["text"]})


def people(catalogue, histories, ages):
    store = ClientStore("c", tuple(f"u{n}" for n in range(len(histories))), tuple(histories), ages)
    return People(
        users=lambda _client: store.users,
        histories=lambda _client: store.histories,
        ages=lambda _client: ages_of(store),
        catalogue=whole(catalogue),
        key=lambda user, round_: 1000 * int(user[1:]) + abs(round_),
        rng=lambda user, round_: np.random.default_rng([int(user[1:]), abs(round_)]),
        noise=lambda _client: NoiseSource("seeded", np.random.SFC64(0).random_raw),
        today=date(1970, 1, 1),
    )


def rows_of(who, task):
    return np.concatenate(list(contributions(who, ["c"], task, private=False)))


@settings(deadline=None, max_examples=60)
@given(
    rules=some_rules,
    age=ages,
    policy=policies(),
    shadow=policies(),
    kind=st.sampled_from(sorted(SPECS)),
    seed=st.integers(0, 99),
)
def test_no_policy_or_shadow_has_a_barred_item_measured(
    catalogue, header, history, rules, age, policy, shadow, kind, seed
):
    shadow = replace(shadow, k=policy.k)
    parameters = initial_parameters(SPECS["mean"], np.random.default_rng(5)) if kind == "mean" else None
    if parameters is None:
        parameters = np.random.default_rng(5).normal(0, 0.3, SPECS[kind].size).astype(np.float32)
    task = MeasureTask(
        header=header(kind),
        policy=policy,
        shadows=(shadow,),
        activity=(4, 8),
        rules=rules,
        parameters=parameters,
        prior=PRIOR,
    )
    one = replace(history(seed, 20, 8), kind=np.zeros(20, np.int8))
    (row,) = rows_of(people(catalogue, [one], (age,)), task)
    mask = barred(rules, catalogue.ids, age)
    assert not row[layout_of(task).exposures][mask].any()
    # Nor is it something to be found: the row is that of a user who never held it out.
    hidden = one.held_out & mask[one.item]
    other = replace(one, kind=np.where(hidden, NOT_INTERESTED, one.kind).astype(np.int8))
    (again,) = rows_of(people(catalogue, [other], (age,)), task)
    assert np.array_equal(row, again)


@given(rules=some_rules, age=ages, seed=st.integers(0, 999))
def test_a_barred_item_is_neither_target_nor_negative_but_context(catalogue, history, rules, age, seed):
    one, mask = history(seed, 20, 4), barred(rules, catalogue.ids, age)
    shape = BatchShape(32, 16, 64)
    batch = draw(stacked([one]), [0], [mask], ITEMS, shape)
    targets = batch.item[0, 32:48][batch.target[0] > 0]
    negatives = batch.item[0, 48:][batch.negative[0] > 0]
    assert not mask[targets].any()
    assert not mask[negatives].any()
    context = batch.item[0, :32][batch.behaviour[0].any(axis=1)]
    visible = one.item[~one.held_out]
    assert set(context.tolist()) | set(targets.tolist()) == set(visible.tolist())


def train_task(header, kind, rules):
    rng = np.random.default_rng(5)
    values = initial_parameters(SPECS[kind], rng) + rng.normal(0, 0.2, SPECS[kind].size).astype(np.float32)
    policy = RecallPolicy(
        1, dict.fromkeys(GROUPS[:3], "cosine"), dict.fromkeys(GROUPS, 1.0), GROUPS, 20, 1, 0.0, 0.0, 0.0, 10
    )
    return TrainTask(
        header=header(kind),
        policy=policy,
        training=TrainingTerms("softmax", 1.0, 16, 16, 32),
        rules=rules,
        parameters=values,
        prior=PRIOR,
    )


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_the_age_decides_and_an_unknown_one_bars(catalogue, header, history, kind):
    """Users with one history and several ages: their updates part where the rules do."""
    one = replace(history(7, 16, 0), kind=np.zeros(16, np.int8))
    limits = ItemRules(min_age={f"i{item}": 18 for item in one.item[:8]})
    who = people(catalogue, [one] * 4, (None, 12, 18, 70))
    same = replace(who, key=lambda _user, _round: 0)
    unknown, child, grown, old = rows_of(same, train_task(header, kind, limits))
    assert np.array_equal(unknown, child)
    assert np.array_equal(grown, old)
    assert not np.array_equal(unknown, grown)
    free = rows_of(same, train_task(header, kind, NO_RULES))
    assert np.array_equal(free[0], grown)


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_nothing_wanted_is_left_when_everything_is_barred(catalogue, header, history, kind):
    one = history(7, 16, 0)
    everything = ItemRules(blocked=tuple(catalogue.ids))
    (row,) = rows_of(people(catalogue, [one], ()), train_task(header, kind, everything))
    assert not row.any()


def test_masks_are_those_of_the_users_ages(catalogue):
    rules = ItemRules(min_age={"i3": 18})
    made = masks(rules, catalogue.ids, [None, 30])
    assert [bool(mask[3]) for mask in made] == [True, False]

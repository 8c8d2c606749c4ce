from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from client.silo import SiloTerms
from server.features import build_catalogue
from shared.errors import ConfigError, PlanError, RunError
from shared.files import read_arrays
from shared.history import History
from shared.privacy.ledger import read_ledger
from simulations.silo_world import SiloSettings, make_silo_plan, make_silos, make_tower
from simulations.silos import train
from simulations.text_ranking import text_ranking

TASTES = (("red", "blue", "pen", "mug", "a"), ("tea", "coffee", "morning", "the", "in"))
SETTINGS = SiloSettings(
    silos=3,
    customers=9,
    outsiders=4,
    rounds=2,
    delta=1e-3,
    rank=2,
    learning_rate=0.1,
    terms=SiloTerms(0.2, 6, 2, 2, 3),
    tokens=8,
)


def history(rng, items):
    item = rng.choice(items, 8, replace=False).astype(np.int32)  # the last two are held out
    return History(
        item=item,
        kind=np.ones(8, np.int8),
        count=np.ones(8, np.float32),
        dwell=np.zeros(8, np.float32),
        rating=np.full(8, np.nan, np.float32),
        time=np.arange(8.0),
        held_out=np.arange(8) >= 6,
    )


@pytest.fixture(scope="module")
def world(tiny_bert):
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(TASTES[n % 2], 3)) for n in range(30))
    ids = tuple(map(str, range(30)))
    likes = [np.arange(30)[n % 2 :: 2] for n in range(14)]  # everybody has one taste
    return SimpleNamespace(
        catalogue=build_catalogue(ids, texts, texts, [()] * 30, model=tiny_bert),
        dataset=SimpleNamespace(users=tuple(f"u{n}" for n in range(14))),
        histories=tuple(history(rng, items) for items in likes),
    )


@pytest.fixture(scope="module")
def silos(world, tiny_bert):
    return make_silos(world, tiny_bert, SETTINGS, lambda _sentence: None)


def run(silos, folder, epsilon=8.0, settings=SETTINGS):
    return train(silos, settings, epsilon, folder, lambda _sentence: None)


def test_customers_are_dealt_out_once_and_outsiders_are_nobodys(silos, world):
    dealt = [user for store in silos.stores.values() for user in store.users]
    assert [len(store.users) for store in silos.stores.values()] == [3, 3, 3]
    assert len(set(dealt)) == 9
    inside = {id(history) for store in silos.stores.values() for history in store.histories}
    assert len(silos.outsiders) == 4
    assert inside.isdisjoint(map(id, silos.outsiders))


def test_all_the_budget_goes_to_updates_of_one_unit_user(silos):
    plan = make_silo_plan(SETTINGS, silos.spec, 8.0)
    assert (plan.unit, plan.trust, plan.honest) == ("user", "distributed", 2)
    assert plan.full()["update"] == SETTINGS.rounds
    assert sum(plan.full().values()) == SETTINGS.rounds


def test_a_run_prints_what_it_promises_and_every_silo_paid_for_it(silos, tmp_path):
    result = run(silos, tmp_path / "run")
    assert 7.9 < result["epsilon"] <= 8.0
    assert result["unit"] == "user"
    assert any("one user's whole history" in sentence for sentence in result["covers"])
    for name in silos.stores:
        events = [line.event for line in read_ledger(tmp_path / "run" / f"{name}.jsonl")]
        intents = [event for event in events if event["type"] == "intent"]
        assert [event["round"] for event in intents] == [1, 2]
        assert {event["noise_source"] for event in intents} == {"seeded"}
        assert all(event["rho"] > 0 for event in intents)
    types = [line.event["type"] for line in read_ledger(tmp_path / "run" / "server.jsonl")]
    assert types == ["plan", *["intent", "result", "head"] * 2]


def test_an_intent_of_a_silo_names_the_servers_line_before_it(silos, tmp_path):
    run(silos, tmp_path / "run")
    server = {line.hash: line.event for line in read_ledger(tmp_path / "run" / "server.jsonl")}
    for name in silos.stores:
        for line in read_ledger(tmp_path / "run" / f"{name}.jsonl"):
            if line.event["type"] == "intent":
                assert server[line.event["server"]]["task"] == line.event["task"]


def test_the_same_seed_gives_the_same_adapters_and_another_epsilon_other_ones(silos, tmp_path):
    one, two, other = (
        run(silos, tmp_path / name, epsilon) for name, epsilon in (("one", 8.0), ("two", 8.0), ("other", None))
    )
    outer = [read_arrays(tmp_path / name / "adapters.npz")["outer"] for name in ("one", "two", "other")]
    np.testing.assert_array_equal(outer[0], outer[1])
    assert (outer[0] != outer[2]).any()
    assert one["after"] == two["after"]
    assert other["epsilon"] is None
    assert other["covers"] == ["No differential privacy: nothing is claimed against anybody."]


def test_training_lowers_the_loss_on_what_was_held_out_also_of_people_no_silo_has(silos, tmp_path):
    settings = replace(SETTINGS, rounds=8)
    result = run(silos, tmp_path / "run", None, settings)
    for who in ("silos", "outsiders"):
        assert result["after"][who]["loss"] < result["before"][who]["loss"] - 0.05
    json.dumps(result)


def test_the_sum_is_that_of_the_clipped_gradients_when_there_is_no_noise(silos, tmp_path, monkeypatch):
    from simulations import silos as module

    totals, real = [], module.secure_sum
    monkeypatch.setattr(
        module,
        "secure_sum",
        lambda vectors, *rest: totals.append(sum(v.astype(np.int64) for v in vectors.values())) or real(vectors, *rest),
    )
    run(silos, tmp_path / "run", None)
    plan = make_silo_plan(SETTINGS, silos.spec, None)
    assert all(np.linalg.norm(total) <= SETTINGS.customers * plan.update.steps for total in totals)
    results = [line.event for line in read_ledger(tmp_path / "run" / "server.jsonl") if line.event["type"] == "result"]
    import hashlib

    assert [event["sum"] for event in results] == [hashlib.sha256(total.tobytes()).hexdigest() for total in totals]


def test_a_folder_that_holds_a_run_is_refused(silos, tmp_path):
    run(silos, tmp_path / "run")
    with pytest.raises(RunError, match="choose another --out"):
        run(silos, tmp_path / "run")


def test_more_customers_than_there_are_and_impossible_promises_are_refused(world, silos, tiny_bert):
    with pytest.raises(ConfigError, match="15 customers of 3 silos: there are 14"):
        make_silos(world, tiny_bert, replace(SETTINGS, customers=15), lambda _sentence: None)
    with pytest.raises(PlanError, match="epsilon"):
        make_silo_plan(SETTINGS, silos.spec, 1000.0)


def test_the_head_starts_from_the_whitened_text_vectors(world, tiny_bert):
    from client.silo import item_vectors
    from server.adaptation import whiten, whitening
    from server.basis import unit_rows

    text = world.catalogue.groups["text"]
    expected = {"whiten": unit_rows(whiten(text, whitening(text))), "none": text}
    for head, vectors in expected.items():
        tower, spec = make_tower(world.catalogue, tiny_bert, replace(SETTINGS, head=head))
        np.testing.assert_allclose(item_vectors(tower, np.zeros(spec.size, np.float32)), vectors, atol=1e-4)


def test_text_ranking_knows_the_definition():
    vectors = np.eye(40, dtype=np.float32)[[0, 0, *range(1, 39)]]  # the second item reads like the first
    rng = np.random.default_rng(0)
    user = replace(history(rng, 40), item=np.array([0, 1, *range(30, 36)], np.int32), held_out=np.arange(8) == 1)
    found = text_ranking(vectors, [user], 1.0)
    assert found["people"] == 1
    scores = vectors @ (vectors[user.item[[0, *range(2, 8)]]].mean(axis=0) * 7 / np.sqrt(7))
    others = np.setdiff1d(np.arange(40), user.item[[0, *range(2, 8)]])
    assert found["loss"] == pytest.approx(np.log(np.exp(scores[others]).sum()) - scores[1], rel=1e-5)
    assert (found["recall@20"], found["ndcg@10"]) == (1.0, 1.0)


def test_who_has_nothing_visible_or_nothing_held_out_does_not_count():
    vectors, user = np.eye(40, dtype=np.float32), history(np.random.default_rng(0), 40)
    for held_out in (np.zeros(8, bool), np.ones(8, bool)):
        assert text_ranking(vectors, [replace(user, held_out=held_out)])["people"] == 0


def test_what_cannot_be_is_refused_before_any_data_is_read(tmp_path, monkeypatch):
    from simulations import silos as module
    from simulations.config import resolve

    monkeypatch.setattr(module, "load_world", lambda *_args: pytest.fail("data were read"))

    def compare(config, settings=SETTINGS, epsilons=(8.0,)):
        return module.compare_silos(
            config, settings, [None, *epsilons], tmp_path, cache=tmp_path, source=None, say=lambda _sentence: None
        )

    plain = resolve("online-retail")
    for again in ([8.0, 8.0], [8.0, 8.0000001]):
        with pytest.raises(ConfigError, match="--epsilon: two promises are called epsilon-8"):
            compare(plain, epsilons=again)
    with pytest.raises(ConfigError, match="silos adapt a text model"):
        compare(resolve("online-retail", sets=['model.text_encoder="none"']))
    with pytest.raises(PlanError, match="delta"):
        compare(plain, replace(SETTINGS, delta=0.5))
    with pytest.raises(PlanError, match="epsilon"):
        compare(plain, epsilons=[1000.0])
    (tmp_path / "there").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="not empty; choose another --out"):
        compare(plain)


def test_a_person_reads_before_and_after_and_what_is_promised(silos, tmp_path):
    from rich.console import Console

    from simulations.silo_cli import _show

    runs = [run(silos, tmp_path / str(epsilon), epsilon) for epsilon in (None, 8.0)]
    result = {"preset": "tiny", "silos": 3, "customers": 9, "runs": runs, "folder": "runs/silos-tiny-1"}
    console = Console(record=True, width=140, highlight=False)
    _show({**result, "plain": runs[0]["before"]}, console)
    shown = console.export_text()
    for part in ("plain text model", "after, no privacy", "after, epsilon 8.00", "No differential privacy", "masks of"):
        assert part in shown
    assert "Protected: one user's whole history." in shown


def test_every_round_and_every_promise_has_noise_of_its_own(silos, tmp_path, monkeypatch):
    from simulations import silos as module

    drawn, real = [], module.noise

    def watched(*names):
        source = real(*names)
        drawn.append(source.words(4).tobytes())
        return real(*names)

    monkeypatch.setattr(module, "noise", watched)
    for epsilon in (4.0, 8.0):
        run(silos, tmp_path / str(epsilon), epsilon)
    assert len(drawn) == len(set(drawn)) == 2 * SETTINGS.rounds * SETTINGS.silos

"""Opacus' accountants as second witness: of plans, and of a client whose only memory is its ledger."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from opacus.accountants import PRVAccountant

from client import training
from client.host import answer
from client.witness import Witness, paid_for, second_witness
from shared.errors import PlanError
from shared.privacy.accounting import Sampled, epsilon_by_pld, epsilon_sampled, rho_of
from shared.privacy.chain import read_ledger
from shared.privacy.plan import claims
from shared.protocol import parse_sealed, vector_length

DELTA = 1e-5


def agree(printed, witness):
    """Within two percent, and never above the looser bound."""
    return printed == pytest.approx(witness.prv, rel=0.02) and printed <= witness.rdp


# --- of compositions


@pytest.mark.parametrize(
    "events",
    [
        [(1.0, 0.1, 100)],
        [(1.0, 1.0, 100)],
        [(4.0, 1.0, 40), (9.0, 1.0, 8), (12.0, 1.0, 1)],
        [(4.0, 0.3, 40), (9.0, 0.3, 8), (12.0, 0.3, 1)],
        [(400.0, 1.0, 4)],
        [(0.5, 1.0, 3)],
    ],
)
def test_two_libraries_agree(events):
    events = tuple(Sampled(*event) for event in events)
    assert agree(epsilon_sampled(events, DELTA), second_witness(events, DELTA))


def test_they_can_disagree():
    events = (Sampled(1.0, 0.1, 100),)
    for wrong in (Sampled(1.1, 0.1, 100), Sampled(1.0, 0.1, 80), Sampled(1.0, 0.08, 100)):
        assert not agree(epsilon_sampled((wrong,), DELTA), second_witness(events, DELTA))


def test_the_golden_values_of_the_poisson_example():
    witness = second_witness((Sampled(1.0, 0.1, 100),), DELTA)
    assert witness.prv == pytest.approx(7.057, abs=2e-3)
    assert witness.rdp == pytest.approx(7.90, abs=0.01)
    assert second_witness((Sampled(1.0, 1.0, 100),), DELTA).rdp == pytest.approx(96.1, abs=0.05)


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_the_claims_of_a_plan_are_confirmed(trust, plan):
    made = plan(trust=trust, local_steps=3)
    witness = second_witness(made.events(made.full()), made.delta)
    assert agree(claims(made).recipients, witness)


def test_the_amplified_claim_of_a_plan_is_confirmed(plan):
    made = plan(trust="central", sampling=0.25, smallest_cohort=0)
    witness = second_witness(made.events(made.full(), made.sampling), made.delta)
    assert agree(claims(made).recipients_amplified, witness)


def test_nothing_spent_is_nothing_no_noise_is_infinite_and_hundreds_are_left_to_renyi():
    assert second_witness((), DELTA) == second_witness((Sampled(0.0, 0.0, 9),), DELTA) == Witness(0.0, 0.0)
    assert second_witness((Sampled(0.0, 1.0, 1),), DELTA) == Witness(math.inf, math.inf)
    prv, rdp = second_witness((Sampled(0.05, 1.0, 3),), DELTA)
    assert prv is None
    assert rdp > epsilon_by_pld(rho_of(0.05, 3), DELTA)


# --- of a ledger

ROUNDS, STEPS = 4, 2


@pytest.fixture
def rounds(host, task, plan, policy, history, message):
    """``rounds(lengths)``: a client under local trust, restarted before every round; yields its sealed vectors."""

    def run(lengths=(12, 0, 30), unit="user"):
        made = plan(trust="local", unit=unit, rounds=ROUNDS, update_participations=ROUNDS, local_steps=STEPS)
        for number in range(1, ROUNDS + 1):
            one = host([history(n, length, 0) for n, length in enumerate(lengths)], users_per_client=len(lengths))
            asked = task(plan=made, policy=policy(local_iterations=STEPS), round=number)
            sealed = parse_sealed(answer(one, "1", message(asked)), vector_length(asked))
            one.close()
            yield made, sealed

    return run


@pytest.fixture
def events(tmp_path):
    return lambda: [line.event for line in read_ledger(tmp_path / "ledger.jsonl")]


@pytest.mark.parametrize("unit", ["user", "interaction"])
def test_opacus_own_accountant_over_all_rounds_and_restarts_agrees_with_the_ledger(unit, rounds, events, monkeypatch):
    """It is hooked into the optimizer steps that really run, and its state is carried from round to round."""
    carried = PRVAccountant().state_dict()

    class Watched(training._PrivateSgd):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.attach_step_hook(self.count)

        def count(self, optimizer):
            accountant = PRVAccountant()
            accountant.load_state_dict(carried)
            # Without one event a clipped contribution becomes another one: twice the clip.
            sensitivity = 2.0 if unit == "interaction" else 1.0
            accountant.step(noise_multiplier=optimizer.noise_multiplier / sensitivity, sample_rate=1.0)
            carried.update(accountant.state_dict())

    monkeypatch.setattr(training, "_PrivateSgd", Watched)
    (made, _), *_ = list(rounds(unit=unit))
    assert [steps for _, _, steps in carried["history"]] == [ROUNDS * STEPS]

    (ours,) = paid_for(events())["1"]
    printed = epsilon_by_pld(rho_of(ours.noise_multiplier, ours.times), made.delta)
    opacus = PRVAccountant()
    opacus.load_state_dict(carried)
    with np.errstate(divide="ignore"):
        assert printed == pytest.approx(opacus.get_epsilon(made.delta), rel=0.02)
    assert agree(printed, second_witness([Sampled(*steps) for steps in carried["history"]], made.delta))
    # Whoever builds the accountant anew every round shows one round's epsilon for ever.
    assert second_witness([ours._replace(times=STEPS)], made.delta).prv < 0.6 * printed


def test_a_client_restarted_at_any_round_trains_with_all_of_its_noise(rounds):
    """Seen elsewhere: a site restarted at round k trained without privacy. Of empty histories noise is all there is."""
    seen = []
    for made, sealed in rounds(lengths=(0, 0)):
        update = made.update
        wanted = update.noise_multiplier * update.steps * math.sqrt(STEPS)  # the learning rate is 1
        assert sealed.std() / wanted == pytest.approx(1.0, abs=0.1)
        seen.append(sealed.tolist())
    assert len({tuple(sealed) for sealed in seen}) == ROUNDS


def test_what_was_paid_for_is_counted_from_intents_alone(rounds, events):
    list(rounds())
    lines = events()
    whole = paid_for(lines)
    assert paid_for([e for e in lines if e["type"] in {"plan", "intent"}]) == whole
    assert paid_for([*lines, next(e for e in lines if e["type"] == "intent")])["1"][0].times == (ROUNDS + 1) * STEPS
    assert paid_for([]) == {}


def test_runs_add_up_each_under_its_own_plan(plan, events, rounds):
    list(rounds())
    other = plan(epsilon=2.0)
    more = [
        {"type": "plan", "run": "another", "plan": asdict(other)},
        *({"type": "intent", "client": "1", "run": "another", "release": kind} for kind in ("update", "measurement")),
    ]
    first, *rest = paid_for([*events(), *more])["1"]
    assert first == paid_for(events())["1"][0]
    assert rest == [other.events({kind: 1})[0] for kind in ("update", "measurement")]


def test_a_ledger_of_something_else_is_an_error(plan):
    with pytest.raises(PlanError):
        paid_for([{"type": "plan", "run": "run", "plan": {}}])
    with pytest.raises(KeyError):
        paid_for([{"type": "intent", "client": "1", "run": "run", "release": "update"}])

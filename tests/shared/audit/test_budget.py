"""A claim is held against the PLD bound of what was executed, by every number that is printed of it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, replace

import pytest

from shared.audit.budget import budget_findings, epsilon_by_kind, epsilon_over_time, recomputed
from shared.privacy import accounting
from shared.privacy.plan import ETA, claims
from shared.privacy.plan import epsilon_by_kind as planned_by_kind

COUNTS = {"statistics": 1, "update": 2, "measurement": 1}


def printing(evidence, **changes):
    content = {**evidence.printed.content, **changes}
    return replace(evidence, printed=replace(evidence.printed, content=content))


def complete(evidence):
    """With all that a run's summary prints."""
    plan = evidence.server.plan
    return printing(
        evidence,
        adjacency="zero-out",
        participations=plan.update.participations,
        rounds=plan.rounds,
        accountant=accounting.ACCOUNTANT,
        epsilon_by_kind=planned_by_kind(plan, COUNTS),
        users=plan.population,
    )


def with_server(evidence, **changes):
    return replace(evidence, server=replace(evidence.server, **changes))


def without_clients(evidence):
    return replace(evidence, clients=())


def failed(evidence):
    return {finding.check: finding for finding in budget_findings(evidence) if finding.outcome == "fail"}


def outcomes(evidence):
    return {finding.check: finding.outcome for finding in budget_findings(evidence)}


TRUSTS = [("distributed", "user"), ("central", "user"), ("local", "user"), ("local", "interaction")]


@pytest.mark.parametrize("clients", [True, False])
@pytest.mark.parametrize(("trust", "unit"), TRUSTS)
def test_a_clean_run_passes_every_check_with_and_without_the_clients_ledgers(made, planned, trust, unit, clients):
    evidence = complete(made(planned(trust=trust, unit=unit)))
    found = outcomes(evidence if clients else without_clients(evidence))
    assert set(found.values()) == {"pass"}, found
    assert {"claim-is-bound", "claim-per-kind", "prv", "rdp", "rho-as-charged", "plan-keeps-promise"} <= set(found)


@pytest.mark.parametrize(("trust", "unit"), TRUSTS)
def test_the_recomputed_epsilon_is_that_of_dp_accounting_called_by_hand(made, planned, trust, unit):
    from dp_accounting import dp_event
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    plan = planned(trust=trust, unit=unit, epsilon=4.0)
    evidence = made(plan)
    by_hand = PLDAccountant()
    for kind, count in COUNTS.items():
        mechanism = plan.mechanism(kind)
        real = math.sqrt(mechanism.noise_multiplier**2 - 2.0 / mechanism.steps**2) / mechanism.sensitivity
        by_hand.compose(dp_event.GaussianDpEvent(real), count * mechanism.inner_steps)
    expected = by_hand.get_epsilon(plan.delta * math.exp(-ETA)) + 2 * ETA
    assert recomputed(evidence) == pytest.approx(expected, abs=1e-6)


def test_the_amplified_claim_is_that_of_dp_accounting_called_by_hand(made, planned):
    from dp_accounting.pld import privacy_loss_distribution as pld

    plan = replace(planned(trust="central"), sampling=0.5, smallest_cohort=0)
    evidence = made(plan)
    spent = claims(plan, COUNTS, {**COUNTS, "profile": 0})
    kinds = [(plan.mechanism(kind), count) for kind, count in COUNTS.items()]
    scale = math.sqrt(sum(0.25 * count * m.claimed_rho for m, count in kinds))
    grid = max(1e-3 * min(1.0, scale), 1e-4 / min(m.claimed_multiplier for m, _ in kinds))
    losses = [
        pld.from_gaussian_mechanism(
            mechanism.claimed_multiplier,
            sampling_prob=0.5,
            value_discretization_interval=grid,
            log_mass_truncation_bound=-50,
        ).self_compose(count)
        for mechanism, count in kinds
    ]
    by_hand = losses[0].compose(losses[1]).compose(losses[2]).get_epsilon_for_delta(plan.delta * math.exp(-ETA))
    assert spent.recipients_amplified == pytest.approx(by_hand + 2 * ETA, abs=1e-6)
    told = {name: value for name, value in asdict(spent).items() if name != "if_others_collude"}
    assert "claim-is-bound" not in failed(printing(evidence, epsilon_claims=told))
    told["recipients_amplified"] *= 0.99
    found = failed(printing(evidence, epsilon_claims=told))["claim-is-bound"]
    assert found.values["claim"] == "epsilon_claims.recipients_amplified"


@pytest.mark.parametrize("below", [0.5, 0.99])
@pytest.mark.parametrize("name", ["epsilon", "everyone", "recipients", "server"])
def test_an_epsilon_below_the_bound_fails_if_only_by_one_percent(made, name, below):
    evidence = complete(made())
    bound = evidence.printed.content["epsilon"]
    if name == "epsilon":
        broken, claim = printing(evidence, epsilon=bound * below), "epsilon"
    else:
        told = {**evidence.printed.content["epsilon_claims"], name: bound * below}
        broken, claim = printing(evidence, epsilon_claims=told), f"epsilon_claims.{name}"
    found = failed(broken)
    assert set(found) == {"claim-is-bound"}
    assert found["claim-is-bound"].values == {
        "claim": claim,
        "printed": bound * below,
        "recomputed": pytest.approx(bound),
    }


def test_an_accountants_estimate_in_place_of_a_bound_fails(made):
    evidence = complete(made())
    rho = evidence.server.plan.claimed(COUNTS)
    estimate = accounting.epsilon_exact(rho, 1e-5) - 1e-3  # what a library's point estimate may well print
    found = failed(printing(evidence, epsilon=estimate, accountant="PRV estimate"))
    assert set(found) == {"claim-is-bound", "accountant"}


def test_a_plan_that_promises_less_than_its_noise_gives_fails(made):
    evidence = complete(made())
    named = {**asdict(evidence.server.plan), "epsilon": 4.0}
    found = failed(with_server(evidence, plan=replace(evidence.server.plan, epsilon=4.0), named=named))
    assert found["plan-keeps-promise"].places[0].lines == (1,)
    assert "its noise allows epsilon 8" in found["plan-keeps-promise"].values["why"]
    assert found["claim-is-bound"].values["claim"] == "plan.epsilon"


def test_a_larger_claim_than_needed_passes(made):
    assert failed(printing(complete(made()), epsilon=9.0)) == {}


@pytest.mark.parametrize("value", [None, "8", True, math.nan])
def test_a_private_run_that_prints_no_epsilon_fails(made, value):
    assert set(failed(printing(complete(made()), epsilon=value))) == {"claim-missing"}


def test_what_is_printed_per_kind_is_a_bound_too(made):
    evidence = complete(made())
    told = evidence.printed.content["epsilon_by_kind"]
    found = failed(printing(evidence, epsilon_by_kind={**told, "update": told["update"] - 0.01}))
    assert set(found) == {"claim-per-kind"}
    assert found["claim-per-kind"].values["release"] == "update"
    missing = {kind: value for kind, value in told.items() if kind != "measurement"}
    assert failed(printing(evidence, epsilon_by_kind=missing))["claim-per-kind"].values["printed"] is None
    assert outcomes(printing(evidence, epsilon_by_kind=None))["claim-per-kind"] == "cannot tell"


def test_a_claim_against_the_server_under_central_trust_is_impossible(made, planned):
    evidence = complete(made(planned(trust="central")))
    told = {**evidence.printed.content["epsilon_claims"], "server": 8.0}
    assert failed(printing(evidence, epsilon_claims=told))["claim-impossible"].values == {
        "claim": "epsilon_claims.server",
        "printed": 8.0,
    }


def test_an_amplified_claim_without_coins_or_after_an_aborted_round_is_impossible(made, planned):
    evidence = complete(made(planned(trust="central")))
    told = {**evidence.printed.content["epsilon_claims"], "recipients_amplified": 7.9}
    assert "claim-impossible" in failed(printing(evidence, epsilon_claims=told))
    coins = with_server(evidence, plan=replace(evidence.server.plan, sampling=0.9))
    coins = printing(coins, epsilon_claims=told)
    assert "claim-impossible" not in failed(coins)
    sums = tuple(replace(made_, aborted=made_.round == 1) for made_ in coins.server.sums)
    assert "claim-impossible" in failed(with_server(coins, sums=sums))


# --- noise as executed


def test_less_noise_in_a_sum_costs_more_than_the_plan_says(made):
    evidence = complete(made())
    plan = evidence.server.plan
    few = tuple(
        replace(one, survivors=3, sum_sigma=plan.sum_sigma(one.release, 3)) if one.round == 1 else one
        for one in evidence.server.sums
    )
    broken = with_server(evidence, sums=few)
    assert recomputed(broken) > recomputed(evidence) * 1.1
    low = [one.values["claim"] for one in budget_findings(broken) if one.outcome == "fail" and "claim" in one.values]
    assert {"plan.epsilon", "epsilon", "epsilon_claims.everyone"} <= set(low)


def test_half_the_noise_in_the_shares_costs_more_and_none_costs_infinity(made):
    evidence = complete(made())
    log = evidence.clients[0]
    for factor, least in ((0.5, 12.0), (0.0, math.inf)):
        paid = tuple(replace(one, share_sigma=one.share_sigma * factor) for one in log.payments)
        broken = replace(evidence, clients=(replace(log, payments=paid),))
        assert recomputed(broken) >= least
        assert "claim-is-bound" in failed(broken)


@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_noise_that_is_no_number_is_none(made, planned, trust):
    evidence = complete(made(planned(trust=trust)))
    odd = tuple(replace(one, sum_sigma=math.nan) for one in evidence.server.sums)
    assert recomputed(with_server(evidence, sums=odd)) == math.inf


def test_more_noise_than_planned_saves_nothing(made):
    evidence = complete(made())
    loud = tuple(replace(one, sum_sigma=one.sum_sigma * 3) for one in evidence.server.sums)
    assert recomputed(with_server(evidence, sums=loud)) == recomputed(evidence)


def test_of_an_aborted_sum_nothing_left_so_its_survivors_do_not_count(made):
    evidence = complete(made())
    gone = tuple(replace(one, survivors=1, sum_sigma=0.0, aborted=True) for one in evidence.server.sums)
    assert recomputed(with_server(evidence, sums=gone)) == recomputed(evidence)


def test_a_charge_counts_where_the_clients_own_ledger_is_not_at_hand(made):
    evidence = complete(made())
    log = evidence.clients[0]
    absent = replace(log, payments=tuple(one for one in log.payments if one.client != "3"))
    assert recomputed(replace(evidence, clients=(absent,))) == recomputed(evidence)
    assert recomputed(without_clients(evidence)) == recomputed(evidence)


def test_who_paid_less_often_than_it_was_asked_makes_the_bound_smaller_not_the_claim_false(made):
    evidence = with_server(complete(made()), sums=())  # whom a sum counted is in it whatever they say
    log = evidence.clients[0]
    once = replace(log, payments=tuple(one for one in log.payments if one.round != 1))
    fewer = replace(evidence, clients=(once,))
    assert recomputed(fewer) < recomputed(evidence)
    assert "claim-is-bound" not in failed(fewer)


# --- delta and parameters


def test_a_smaller_delta_beside_the_same_epsilon_fails_twice(made):
    found = failed(printing(complete(made()), delta=1e-9))
    assert set(found) == {"delta-as-planned", "claim-is-bound", "claim-per-kind"}
    assert found["delta-as-planned"].values == {"printed": 1e-9, "planned": 1e-5}
    assert found["claim-is-bound"].values["recomputed"] > 10.0


def test_delta_must_be_below_one_in_all_people(made):
    evidence = complete(made())
    assert failed(printing(evidence, users=200_000))["delta-below"].values == {"delta": 1e-5, "people": 200_000}
    assert "delta-below" not in failed(printing(evidence, users=99_999))


def test_everybody_who_was_asked_counts_as_people_whatever_population_is_told(made):
    evidence = complete(made())
    crowd = tuple(str(number) for number in range(100_000))
    charges = (replace(evidence.server.charges[0], cohort=crowd), *evidence.server.charges[1:])
    assert failed(with_server(evidence, charges=charges))["delta-below"].values["people"] == 100_000


@pytest.mark.parametrize("said", ["0.1", [0.1], float("nan"), True])
def test_a_claim_that_is_no_number_cannot_be_checked_so_it_fails(made, said):
    evidence = complete(made())
    claims_ = {**evidence.printed.content["epsilon_claims"], "server": said}
    assert failed(printing(evidence, epsilon_claims=claims_))["claim-unreadable"].values["claim"] == (
        "epsilon_claims.server"
    )
    assert failed(printing(evidence, epsilon_claims=said))["claim-unreadable"].values["claim"] == "epsilon_claims"


def test_parameters_beside_the_claim_are_the_plans(made):
    evidence = complete(made())
    assert failed(printing(evidence, participations=1))["parameters"].values == {
        "name": "participations",
        "printed": "1",
        "planned": 2,
    }
    assert failed(printing(evidence, trust="local"))["parameters"].values["planned"] == "distributed"
    assert outcomes(printing(evidence, rounds=None))["parameters"] == "cannot tell"


# --- prices and accountants


def test_a_charge_or_a_payment_below_its_price_fails_with_its_line(made):
    evidence = complete(made())
    cheap = tuple(replace(one, rho=one.rho / 2 if one.round == 1 else one.rho) for one in evidence.server.charges)
    found = failed(with_server(evidence, charges=cheap))["rho-as-charged"]
    assert found.values["count"] == 1
    assert found.places[0].lines == (evidence.server.charges[1].line,)
    log = evidence.clients[0]
    free = tuple(replace(one, rho=None) for one in log.payments[:3]) + log.payments[3:]
    assert failed(replace(evidence, clients=(replace(log, payments=free),)))["rho-as-charged"].values["count"] == 3


def test_the_second_accountant_that_is_printed_is_checked_too(made):
    evidence = complete(made())
    good = {"name": "Opacus", "prv": recomputed(evidence) * 1.001, "rdp": recomputed(evidence) * 1.1}
    assert outcomes(printing(evidence, second_accountant=good))["second-printed"] == "pass"
    assert outcomes(printing(evidence, second_accountant={**good, "prv": 7.0}))["second-printed"] == "fail"
    assert outcomes(printing(evidence, second_accountant={**good, "rdp": 7.0}))["second-printed"] == "fail"
    assert outcomes(printing(evidence, second_accountant={"prv": "8"}))["second-printed"] == "cannot tell"


def test_two_libraries_that_disagree_fail(made, monkeypatch):
    from shared.audit import witnesses

    evidence = complete(made())
    monkeypatch.setattr(witnesses, "prv", lambda *_: 9.0)
    monkeypatch.setattr(witnesses, "rdp", lambda *_: 7.0)
    assert set(failed(evidence)) == {"prv", "rdp"}
    monkeypatch.setattr(witnesses, "prv", lambda *_: None)
    assert outcomes(evidence)["prv"] == "cannot tell"


# --- without privacy, without a plan, without a server


def test_a_plan_without_privacy_has_nothing_to_sign(made, planned):
    evidence = made(planned(epsilon=None))
    assert set(failed(evidence)) == {"claim-none"}
    assert set(failed(printing(evidence, epsilon=8.0))) == {"claim-without-noise"}
    assert epsilon_over_time(evidence) == ()
    assert recomputed(evidence) is None


def test_without_a_plan_the_claim_cannot_be_told(made):
    evidence = with_server(complete(made()), plan=None, named={"kind": "simulation"})
    found = outcomes(evidence)
    assert found["plan-keeps-promise"] == "fail"
    assert found["claim-is-bound"] == "cannot tell"


def test_without_exchanges_the_claim_cannot_be_told(made):
    evidence = made()
    nothing = replace(with_server(evidence, charges=(), sums=()), clients=(), printed=None)
    assert outcomes(nothing)["claim-is-bound"] == "cannot tell"


def test_a_clients_ledger_alone_is_held_against_the_plan_that_it_pinned(made):
    evidence = replace(made(), server=None, printed=None)
    found = outcomes(evidence)
    assert set(found.values()) == {"pass"}
    assert found["claim-is-bound"] == "pass"
    twice = replace(evidence.clients[0], payments=evidence.clients[0].payments * 2)
    assert failed(replace(evidence, clients=(twice,)))["claim-is-bound"].values["claim"] == "plan.epsilon"


# --- over time


def test_epsilon_over_time_grows_to_the_recomputed_bound_and_each_kind_to_its_own(made):
    evidence = made()
    curves = {curve.kind: curve for curve in epsilon_over_time(evidence)}
    assert list(curves) == ["all", "update", "measurement", "statistics"]
    assert curves["all"].rounds == (0, 1, 2)
    assert list(curves["all"].epsilon) == sorted(curves["all"].epsilon)
    assert curves["all"].epsilon[-1] == pytest.approx(recomputed(evidence))
    assert {kind: curve.epsilon[-1] for kind, curve in curves.items() if kind != "all"} == pytest.approx(
        epsilon_by_kind(evidence)
    )


def test_every_finding_has_a_key_of_its_own_and_places_in_files(made):
    found = budget_findings(complete(made()))
    assert max(Counter((finding.clause, finding.check) for finding in found).values()) == 1
    assert all(finding.places and finding.clause in (1, 6) for finding in found)

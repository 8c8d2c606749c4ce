"""What was executed: whose word counts, and how much noise was really there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from shared.audit.executed import (
    bound,
    covered_clients,
    executed,
    kinds_of,
    releases_of,
    rho_by_client,
    sampled_of,
    worst_client,
)
from shared.privacy.accounting import rho_of
from shared.privacy.plan import claims

COUNTS = {"statistics": 1, "update": 2, "measurement": 1}


def with_server(evidence, **changes):
    return replace(evidence, server=replace(evidence.server, **changes))


def paying(evidence, change):
    """With ``change(payment)`` in place of every payment; None leaves it out."""
    log = evidence.clients[0]
    return replace(evidence, clients=(replace(log, payments=tuple(filter(None, map(change, log.payments)))),))


def the_run(evidence):
    (run,) = executed(evidence)
    return run


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_a_clean_run_was_executed_as_planned(made, planned, trust):
    plan = planned(trust=trust)
    run = the_run(made(plan))
    assert [(one.round, one.release) for one in run.exchanges] == [
        (0, "statistics"),
        (1, "update"),
        (2, "update"),
        (2, "measurement"),
    ]
    assert all(one.mechanism == plan.mechanism(one.release) and len(one.clients) == 10 for one in run.exchanges)
    assert list(rho_by_client(run.exchanges).values()) == pytest.approx([plan.claimed(COUNTS)] * 10)
    assert bound(plan.claimed(COUNTS), plan.delta) == claims(plan, COUNTS).largest


def test_a_client_with_a_ledger_is_counted_by_it_and_one_without_by_the_servers(made):
    evidence = made()
    lost = replace(evidence.server.sums[1], failed=("2",), survivors=9)
    evidence = with_server(evidence, sums=(evidence.server.sums[0], lost, *evidence.server.sums[2:]))
    some = paying(evidence, lambda one: None if one.client == "1" or (one.client, one.round) == ("2", 1) else one)
    assert covered_clients(some) == set(evidence.server.charges[0].cohort) - {"1"}
    spent = rho_by_client(the_run(some).exchanges)
    assert spent["1"] == spent["3"] > spent["2"]


def test_whom_the_server_counted_in_a_sum_counts_whatever_the_ledger_at_hand_says(made):
    """Or ledgers of the same names, of another run, would make a run free."""
    evidence = made()
    elsewhere = paying(evidence, lambda one: replace(one, run="another"))
    assert rho_by_client(the_run(elsewhere).exchanges) == rho_by_client(the_run(evidence).exchanges)


def test_a_payment_that_no_charge_knows_counts_too(made):
    evidence = made()
    more = with_server(evidence, charges=evidence.server.charges[:-1])
    assert rho_by_client(the_run(more).exchanges) == rho_by_client(the_run(evidence).exchanges)


def test_a_charge_written_twice_counts_once(made):
    evidence = replace(made(), clients=())
    twice = with_server(evidence, charges=evidence.server.charges * 2)
    assert rho_by_client(the_run(twice).exchanges) == rho_by_client(the_run(evidence).exchanges)


def test_payments_of_other_runs_are_none_of_this_run(made):
    evidence = with_server(made(), sums=())  # killed: whom a sum counted is in it whatever they say
    other = paying(evidence, lambda one: replace(one, run="other") if one.round == 1 else one)
    assert sum(len(one.clients) for one in the_run(other).exchanges) == 30


def test_the_noise_of_a_distributed_sum_is_that_of_its_honest_survivors(made):
    evidence = made()
    plan = evidence.server.plan
    few = tuple(replace(one, survivors=4, sum_sigma=plan.sum_sigma(one.release, 4)) for one in evidence.server.sums)
    mechanism = the_run(with_server(evidence, sums=few)).exchanges[1].mechanism
    honest = 4 - plan.colluders
    expected = plan.update.noise_multiplier * math.sqrt(honest / plan.honest)
    assert mechanism.noise_multiplier == pytest.approx(expected)


def test_the_noise_of_a_central_sum_is_what_the_server_states(made, planned):
    evidence = made(planned(trust="central"))
    halved = tuple(replace(one, sum_sigma=one.sum_sigma / 2) for one in evidence.server.sums)
    mechanism = the_run(with_server(evidence, sums=halved)).exchanges[1].mechanism
    assert mechanism.noise_multiplier == pytest.approx(evidence.server.plan.update.noise_multiplier / 2)


def test_the_noise_of_a_local_release_is_the_clients_own(made, planned):
    evidence = made(planned(trust="local"))
    weaker = paying(evidence, lambda one: replace(one, share_sigma=one.share_sigma / 2))
    exchanges = the_run(weaker).exchanges
    plan = evidence.server.plan
    assert exchanges[0].mechanism.noise_multiplier == pytest.approx(plan.statistics.noise_multiplier / 2)
    assert exchanges[1].mechanism == plan.update  # in the steps, where no ledger sees it


def test_releases_of_one_client_are_what_an_accountant_composes(made):
    run = the_run(made())
    client = worst_client(run.exchanges)
    events = releases_of(run.exchanges, client)
    assert sum(event.times for event in events) == 4
    total = sum(rho_of(event.noise_multiplier, event.times) for event in events)
    assert total == pytest.approx(rho_by_client(run.exchanges)[client])
    assert {event.rate for event in sampled_of(run.exchanges, 0.1)} == {0.1}


def test_nothing_executed_has_no_worst_client_and_costs_nothing(made):
    evidence = replace(made(), clients=())
    run = the_run(with_server(evidence, charges=(), sums=()))
    assert run.exchanges == ()
    assert worst_client(run.exchanges) is None
    assert kinds_of(run.exchanges) == ()
    assert bound(0.0, 1e-5) == 0.0
    assert bound(math.inf, 1e-5) == math.inf


@pytest.mark.parametrize("rho", [1e-320, 1e-200, 1e-30, 299.0, 301.0, 1e6, 1e200])
def test_a_bound_is_told_at_once_however_little_or_much_noise_a_ledger_shows(rho):
    told = bound(rho, 1e-5)
    assert rho <= told <= max(1e-5, (rho + 2 * math.sqrt(rho * math.log(1e5))) * (1 + 1e-6))


def test_the_bound_never_falls_where_one_method_gives_way_to_the_other():
    assert bound(299.9, 1e-5) < bound(300.1, 1e-5)
    assert bound(1.39, 1e-100) > bound(1.39, 1e-5) > bound(1.38, 1e-5)


def test_without_a_server_every_pinned_run_stands_for_itself(made):
    evidence = replace(made(), server=None)
    log = evidence.clients[0]
    two = replace(
        log,
        pins=(*log.pins, replace(log.pins[0], run="b", line=3)),
        payments=log.payments + tuple(replace(one, run="b") for one in log.payments[:10]),
    )
    runs = executed(replace(evidence, clients=(two,)))
    assert [(run.run, run.line, len(run.exchanges)) for run in runs] == [("r", 2, 4), ("b", 3, 1)]
    assert executed(with_server(made(), plan=None)) == []

"""What each person spent, and why clients refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from shared.audit.evidence import Refusal
from shared.audit.spend import BINS, lifetime, refusals, spend
from shared.privacy.plan import claims


def fewer(evidence, kept):
    """With the payments that ``kept(payment)`` keeps, before any sum counted anybody."""
    log, server = evidence.clients[0], replace(evidence.server, sums=())
    return replace(evidence, server=server, clients=(replace(log, payments=tuple(filter(kept, log.payments))),))


def test_people_who_all_took_part_alike_spent_alike_and_all_that_was_allowed(made):
    told = spend(made())
    assert told.persons == 10
    assert told.least == told.median == told.most == pytest.approx(told.cap)
    assert told.cap == pytest.approx(claims(made().server.plan).largest)
    assert [persons for _, _, persons in told.bins] == [10]
    assert told.participations == {"update": (2, 2), "measurement": (1, 1), "statistics": (1, 1)}
    assert (told.source, told.runs, told.renewal) == ("clients", 1, None)


def test_the_histogram_counts_everybody_once_between_the_least_and_the_most(made):
    evidence = fewer(made(), lambda one: one.round < 2 or int(one.client) > 7)
    told = spend(evidence)
    assert told.least < told.most
    assert told.median == told.least
    assert len(told.bins) == BINS
    assert sum(persons for _, _, persons in told.bins) == 10
    assert (told.bins[0][2], told.bins[-1][2]) == (7, 3)
    assert told.bins[0][0] == pytest.approx(told.least, abs=1e-3)
    assert told.bins[-1][1] == pytest.approx(told.most, abs=1e-3)


def test_a_servers_ledger_alone_tells_what_it_charged(made):
    told = spend(replace(made(), clients=()))
    assert (told.source, told.persons, told.lifetime, told.runs) == ("server", 10, None, 0)
    assert told.most == pytest.approx(told.cap)


def test_without_privacy_there_is_no_cap_and_spending_is_infinite(made, planned):
    told = spend(made(planned(epsilon=None)))
    assert told.cap is None
    assert told.most == math.inf
    assert told.bins == ()
    assert told.lifetime == math.inf


def test_no_ledger_tells_of_nobody(made):
    assert spend(replace(made(), clients=(), server=None)) is None


def test_a_lifetime_adds_up_runs_at_the_smallest_delta(made, planned):
    evidence = made()
    log, other = evidence.clients[0], planned(delta=1e-6)
    pins = (*log.pins, replace(log.pins[0], run="b", plan=other, line=3))
    paid = log.payments + tuple(replace(one, run="b") for one in log.payments)
    total = lifetime([replace(log, pins=pins, payments=paid)])
    assert set(total) == set(evidence.server.charges[0].cohort)
    assert max(total.values()) > 1.3 * 8.0


def test_a_run_whose_plan_cannot_be_read_counts_at_the_price_of_its_payments(made):
    log = made().clients[0]
    stated = lifetime([replace(log, pins=())])
    assert max(stated.values()) > 8.0  # a smaller delta stands in for the one that is not known
    free = tuple(replace(one, rho=None) for one in log.payments)
    assert lifetime([replace(log, pins=(), payments=free)])["1"] == math.inf


def test_clauses_lose_names_and_stay_short_and_printable(made):
    clauses = [
        "run 'x y z': the plan changed",
        "run 'a' is of server b",
        "catalogue abcdef is not here; this client has 0123",
        "no consent.toml",
        "\x1b[31mred" + "a" * 200,
        "",
    ]
    log = replace(
        made().clients[0], refusals=tuple(Refusal(n, "1", text, None, None, None) for n, text in enumerate(clauses))
    )
    counts = refusals([log])
    assert counts["run"] == 2
    assert counts["catalogue"] == counts["no consent.toml"] == counts["unnamed"] == 1
    assert all(clause.isprintable() and len(clause) <= 60 for clause in counts)


def test_a_ledger_full_of_different_clauses_is_cut_short(made):
    many = tuple(Refusal(n, "1", f"clause {n}", None, None, None) for n in range(1000))
    counts = refusals([replace(made().clients[0], refusals=many)])
    assert len(counts) == 21
    assert sum(counts.values()) == 1000
    assert counts["other"] == 980

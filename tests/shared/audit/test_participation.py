"""Nobody takes part more often than K in any ledger, and no count begins again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.audit.evidence import Refusal
from shared.audit.participation import participation_findings
from shared.privacy.chain import Receipt


def outcomes(evidence):
    return {finding.check: finding.outcome for finding in participation_findings(evidence)}


def failed(evidence):
    return {finding.check: finding for finding in participation_findings(evidence) if finding.outcome == "fail"}


def with_server(evidence, **changes):
    return replace(evidence, server=replace(evidence.server, **changes))


def with_client(evidence, **changes):
    return replace(evidence, clients=(replace(evidence.clients[0], **changes), *evidence.clients[1:]))


def printing(evidence, **changes):
    content = {**evidence.printed.content, **changes}
    return replace(evidence, printed=replace(evidence.printed, content=content))


def clean(made, plan=None):
    return printing(made(plan) if plan else made(), adjacency="zero-out")


def receipts(evidence, key):
    """With a receipt of all clients in every sum."""
    names = evidence.server.charges[0].cohort
    made = [
        replace(one, receipts=((Receipt(key, one.line, "0" * 64, one.round, "0" * 128), names),))
        for one in evidence.server.sums
    ]
    return with_server(evidence, sums=tuple(made))


BEYOND = {"enrolments", "renewal"}


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_a_clean_run_leaves_open_only_what_no_ledger_shows(made, planned, trust):
    found = outcomes(receipts(clean(made, planned(trust=trust)), "cd" * 32))
    assert {check for check, outcome in found.items() if outcome != "pass"} == BEYOND
    assert {"participations", "reset", "spend", "lifetime", "refusals-none", "coins-none", "unit-user"} <= set(found)


def test_without_the_clients_ledgers_their_side_cannot_be_told(made):
    found = outcomes(replace(clean(made), clients=()))
    assert {check for check, outcome in found.items() if outcome == "cannot tell"} == {
        *BEYOND,
        "reset",
        "lifetime",
        "refusals",
    }
    assert found["participations"] == found["spend"] == "pass"


# --- K


def test_a_client_asked_more_often_than_k_fails_with_the_line_of_the_first_charge_above(made):
    evidence = clean(made)
    once_more = replace(evidence.server.charges[2], line=20, round=3)
    found = failed(with_server(evidence, charges=(*evidence.server.charges, once_more)))
    assert found["participations"].values == {
        "client": "1",
        "release": "update",
        "used": 3,
        "allowed": 2,
        "count": 10,
    }
    assert found["participations"].places[0].lines == (20,)


def test_a_client_that_paid_more_often_than_k_fails_whatever_the_server_says(made):
    evidence = clean(made)
    again = replace(evidence.clients[0].payments[0], line=90, attempt=2)
    found = failed(with_client(evidence, payments=(*evidence.clients[0].payments, again)))
    assert found["participations"].values["release"] == "statistics"
    assert found["participations"].values["count"] == 1
    assert found["participations"].places[0].lines == (90,)
    assert found["spend"].values["most"] > found["spend"].values["cap"]


def test_payments_of_one_client_count_over_all_its_ledgers(made):
    evidence = clean(made)
    log = evidence.clients[0]
    halves = [
        replace(log, payments=tuple(one for one in log.payments if one.round < 2)),
        replace(log, file="second.jsonl", payments=log.payments[20:]),
    ]
    both = replace(evidence, clients=(*halves, replace(halves[1], file="third.jsonl")))
    assert failed(both)["participations"].values["used"] == 3 or failed(both)["participations"].values["used"] == 2
    assert failed(both)["reset"].values["count"] == 10


def test_k_counts_in_each_run_alone(made):
    evidence = clean(made)
    log = evidence.clients[0]
    other = tuple(replace(one, run="before") for one in log.payments)
    pins = (*log.pins, replace(log.pins[0], run="before", line=3))
    two_runs = with_client(evidence, pins=pins, payments=log.payments + other)
    found = outcomes(two_runs)
    assert found["participations"] == "pass"
    lifetime = next(one for one in participation_findings(two_runs) if one.check == "lifetime")
    assert lifetime.values["runs"] == 2
    assert lifetime.values["most"] > 10.0


# --- a count that begins again


def test_a_client_with_two_ledgers_in_one_run_has_its_budget_reset(made):
    evidence = clean(made)
    log = evidence.clients[0]
    before = replace(log, payments=log.payments[:15])
    after = replace(log, file="new.jsonl", key="ef" * 32, payments=log.payments[15:])
    found = failed(replace(evidence, clients=(before, after)))["reset"]
    assert found.places[0].file == "new.jsonl"


def test_receipts_under_two_keys_show_a_new_ledger(made):
    evidence = receipts(clean(made), "cd" * 32)
    last = evidence.server.sums[-1]
    other = replace(last, receipts=tuple((replace(one, key="ef" * 32), names) for one, names in last.receipts))
    found = failed(with_server(evidence, sums=(*evidence.server.sums[:-1], other)))["reset"]
    assert found.values == {"client": "1", "count": 10}
    assert found.places[0].lines == (last.line,)


def test_a_ledger_that_lacks_what_an_earlier_receipt_proves_was_reset(made):
    evidence = receipts(clean(made), "cd" * 32)
    log = evidence.clients[0]
    late = tuple(one for one in log.payments if one.client != "4" or one.round == 2)
    found = failed(with_client(evidence, payments=late))["reset"]
    assert found.values == {"client": "4", "count": 1}
    assert found.places[0].lines == (evidence.server.sums[0].line,)


def test_who_declined_or_failed_needs_no_payment(made):
    evidence = receipts(clean(made), "cd" * 32)
    log = evidence.clients[0]
    declined = tuple(replace(one, declined=("4",)) if one.round == 1 else one for one in evidence.server.sums)
    paid = tuple(one for one in log.payments if one.client != "4" or one.round != 1)
    assert "reset" not in failed(with_client(with_server(evidence, sums=declined), payments=paid))


# --- unit and refusals


def test_the_adjacency_that_people_are_told_is_the_one_that_holds(made):
    assert failed(printing(made(), adjacency="replace-one"))["adjacency"].values == {"printed": "replace-one"}
    assert outcomes(made())["adjacency"] == "cannot tell"


def test_one_event_is_said_to_be_one_event(made, planned):
    found = outcomes(clean(made, planned(unit="interaction", trust="local")))
    assert found["unit-interaction"] == "pass"


def test_refusals_are_counted_by_clause(made):
    evidence = clean(made)
    clauses = ["replay: update of round 1", "consent.epsilon_lifetime: 21", "replay: update of round 2"]
    refused = tuple(Refusal(90 + n, "1", clause, "r", 1, "update") for n, clause in enumerate(clauses))
    told = next(
        one for one in participation_findings(with_client(evidence, refusals=refused)) if one.check == "refusals"
    )
    assert told.values == {"count": 3, "clauses": "replay 2, consent.epsilon_lifetime 1"}
    assert told.places[0].lines == (90, 91, 92)


def test_nothing_at_all_cannot_be_told(made):
    evidence = replace(made(), server=None, clients=(), printed=None)
    assert set(outcomes(evidence).values()) == {"cannot tell"}

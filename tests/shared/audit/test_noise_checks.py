"""Whatever a ledger says of its noise is held against the plan, the survivors and the kind of the run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from shared.audit.hazards import UNSEEN
from shared.audit.noise_checks import noise_findings


def outcomes(evidence):
    return {finding.check: finding.outcome for finding in noise_findings(evidence)}


def failed(evidence):
    return {finding.check: finding for finding in noise_findings(evidence) if finding.outcome == "fail"}


def with_server(evidence, **changes):
    return replace(evidence, server=replace(evidence.server, **changes))


def with_client(evidence, **changes):
    return replace(evidence, clients=(replace(evidence.clients[0], **changes),))


def with_printed(evidence, **changes):
    content = {**evidence.printed.content, **changes}
    return replace(evidence, printed=replace(evidence.printed, content=content))


def changed(rows, place, **changes):
    return tuple(replace(row, **changes) if number == place else row for number, row in enumerate(rows))


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
@pytest.mark.parametrize("kind", ["simulation", "deployment"])
def test_a_clean_run_fails_nothing_and_leaves_open_only_what_no_ledger_shows(made, planned, trust, kind):
    source, day = ("seeded", "1970-01-01") if kind == "simulation" else ("os", "2026-11-24")
    found = outcomes(made(planned(trust=trust, kind=kind), source, day))
    assert {check for check, outcome in found.items() if outcome != "pass"} == set(UNSEEN)


def test_shares_sized_for_a_cohort_that_did_not_come_fail(made):
    evidence = made()
    plan = evidence.server.plan
    few = changed(
        evidence.server.sums,
        1,
        survivors=3,
        failed=tuple(str(number) for number in range(4, 11)),
        sum_sigma=plan.sum_sigma("update", 3),
    )
    found = failed(with_server(evidence, sums=few))
    assert set(found) == {"cohort-survivors"}
    assert found["cohort-survivors"].values == {"survivors": 3, "smallest": 8, "count": 1}
    assert found["cohort-survivors"].places[0].lines == (5,)


def test_an_aborted_sum_may_have_too_few_survivors(made):
    evidence = made()
    plan = evidence.server.plan
    few = changed(
        evidence.server.sums,
        1,
        survivors=3,
        aborted=True,
        failed=tuple(str(number) for number in range(4, 11)),
        sum_sigma=plan.sum_sigma("update", 3),
    )
    found = with_server(evidence, sums=few)
    assert failed(found) == {}
    charged = next(finding for finding in noise_findings(found) if finding.check == "aborted-charged")
    assert charged.values["aborted"] == 1


@pytest.mark.parametrize("factor", [0.5, 1.0 + 1e-6, math.nan, math.inf, 0.0])
def test_another_noise_in_a_sum_than_the_plan_gives_fails(made, factor):
    evidence = made()
    wrong = changed(evidence.server.sums, 2, sum_sigma=evidence.server.sums[2].sum_sigma * factor)
    assert set(failed(with_server(evidence, sums=wrong))) == {"noise-in-sum"}


@pytest.mark.parametrize("factor", [0.5, math.nan])
def test_another_share_than_the_pinned_plan_gives_fails(made, factor):
    evidence = made()
    payments = evidence.clients[0].payments
    wrong = changed(payments, 7, share_sigma=payments[7].share_sigma * factor)
    found = failed(with_client(evidence, payments=wrong))
    assert set(found) == {"share"}
    assert found["share"].values["count"] == 1


def test_seeded_noise_never_passes_as_a_deployment(made, planned):
    found = failed(made(planned(kind="deployment"), "seeded", "2026-11-24"))
    assert set(found) == {"source"}
    assert found["source"].values["found"] == "seeded"


def test_a_seeded_ledger_whose_sources_were_rewritten_is_told_by_its_clock(made, planned):
    assert set(failed(made(planned(kind="deployment"), "os"))) == {"clock"}


def test_a_simulation_relabelled_by_one_side_is_judged_as_neither(made, planned):
    evidence = made()
    deployment = replace(evidence.server.plan, kind="deployment")
    found = failed(with_server(evidence, kind="deployment", plan=deployment))
    assert {"kind-as-judged", "source", "plans-agree"} <= set(found)


def test_noise_drawn_by_the_wrong_party_fails(made, planned):
    evidence = made(planned(trust="central"))
    charges = changed(evidence.server.charges, 0, noise_source="clients")
    assert set(failed(with_server(evidence, charges=charges))) == {"source"}
    evidence = made()
    charges = changed(evidence.server.charges, 0, noise_source="seeded")
    assert set(failed(with_server(evidence, charges=charges))) == {"source"}


@pytest.mark.parametrize(
    "changes",
    [
        {"survivors": 9},
        {"declined": ("1",)},
        {"survivors": 9, "failed": ("stranger",)},
        {"survivors": 8, "failed": ("1", "1")},
        {"survivors": 9, "declined": ("1",), "failed": ("1",)},
    ],
)
def test_survivors_and_dropouts_that_do_not_make_up_the_cohort_fail(made, changes):
    evidence = made()
    sums = changed(evidence.server.sums, 0, **changes)
    assert "dropouts" in failed(with_server(evidence, sums=sums))


def test_a_result_that_nobody_was_charged_for_fails(made):
    evidence = made()
    assert set(failed(with_server(evidence, charges=evidence.server.charges[:-1]))) == {"aborted-charged"}


@pytest.mark.parametrize(
    ("name", "value"), [("catalogue", "another"), ("server", "ff" * 32), ("kind", "deployment"), ("named", {})]
)
def test_a_client_that_pinned_something_else_than_the_server_names_fails(made, name, value):
    evidence = made()
    pins = changed(evidence.clients[0].pins, 0, **{name: value})
    found = failed(with_client(evidence, pins=pins))
    assert found["plans-agree"].values["what"] == ("plan" if name == "named" else name)


def test_another_plan_pinned_by_a_client_fails_by_its_share_too(made, planned):
    evidence = made()
    other = planned(epsilon=4.0)
    pins = changed(evidence.clients[0].pins, 0, plan=other)
    assert set(failed(with_client(evidence, pins=pins))) == {"plans-agree", "share"}


@pytest.mark.parametrize("said", ["ideal: added up without masks", "not needed", "none"])
def test_sums_without_masks_fail_a_deployment(made, planned, said):
    evidence = with_printed(made(planned(kind="deployment"), "os", "2026-11-24"), secure_aggregation=said)
    assert set(failed(evidence)) == {"masking"}


def test_a_simulation_may_add_up_without_masks_when_it_says_so(made):
    found = outcomes(with_printed(made(), secure_aggregation="ideal: the same integers"))
    assert found["masking-ideal"] == "pass"
    assert "masking" not in found


@pytest.mark.parametrize("printed", [None, 8.0, math.nan])
def test_what_is_left_if_others_collude_must_be_printed_and_large_enough(made, printed):
    assert set(failed(with_printed(made(), epsilon_if_others_collude=printed))) == {"collusion"}


def test_central_noise_promises_nothing_against_the_server(made, planned):
    evidence = made(planned(trust="central"))
    assert outcomes(evidence)["collusion-central"] == "pass"
    against = {**evidence.printed.content["epsilon_claims"], "server": 8.0}
    assert set(failed(with_printed(evidence, epsilon_claims=against))) == {"collusion-central"}


def test_central_noise_without_a_summary_leaves_open_what_is_said_against_the_server(made, planned):
    evidence = replace(made(planned(trust="central")), printed=None)
    found = {finding.check: finding.outcome for finding in noise_findings(evidence)}
    assert found["collusion-central"] == "cannot tell"
    assert "collusion" not in found


def test_a_plan_without_privacy_protects_nobody(made, planned):
    assert "recipients-none" in failed(made(planned(epsilon=None)))


def test_without_the_clients_nobody_can_tell_who_drew_the_noise(made):
    found = outcomes(replace(made(), clients=()))
    assert (found["share"], found["source"], found["plans-agree"]) == ("cannot tell",) * 3


def test_a_clients_ledger_alone_shows_its_own_share_and_source(made):
    found = outcomes(replace(made(), server=None, printed=None))
    assert found["share"] == found["source-seeded"] == "pass"
    assert found["server-ledger"] == "cannot tell"


def test_without_a_summary_what_people_are_told_cannot_be_told(made):
    found = outcomes(replace(made(), printed=None))
    assert (found["masking"], found["collusion"], found["simulation-folder"]) == ("cannot tell",) * 3

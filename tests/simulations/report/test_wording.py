"""A claim in words: always with unit, adjacency and trust, rounded up, silent where nothing is promised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simulations.report import wording
from simulations.report.folder import read_run


def test_central_trust_promises_nothing_against_the_server(run_folder):
    claims = {"everyone": None, "recipients": 4.0, "server": None}
    claim = wording.privacy(
        read_run(run_folder(changed={"trust": "central", "epsilon": None, "epsilon_claims": claims}))
    )
    assert claim.state == "claimed"
    assert claim.epsilon == 4.0
    assert ("the server", "none") in claim.claims
    assert ("recipients of models and reports", "4.00") in claim.claims


@given(st.floats(0.0, 1e6))
def test_an_epsilon_is_never_rounded_down(epsilon):
    printed = float(wording.upper(epsilon))
    assert epsilon - 1e-6 <= printed <= epsilon + 0.01 + 1e-6


def test_a_run_without_privacy_claims_nothing(run_folder):
    claim = wording.privacy(read_run(run_folder(epsilon=None)))
    assert (claim.state, claim.epsilon, claim.sentence, claim.claims) == ("none", None, "", ())


def test_an_unfinished_run_says_the_largest_spend_and_takes_unit_and_trust_from_its_configuration(run_folder):
    claim = wording.privacy(read_run(run_folder(rounds=12, summary=False)))
    assert (claim.state, claim.epsilon, claim.unit, claim.trust) == ("spending", 8.0, "user", "distributed")
    assert claim.sentence.startswith("Spent so far: ε = 8.00 at δ = 1e-5; per user")
    assert claim.sentence.endswith("No accountant is recorded.")


def test_a_configured_epsilon_is_no_claim_before_anything_was_spent(run_folder):
    claim = wording.privacy(read_run(run_folder(rounds=0, summary=False)))
    assert (claim.state, claim.epsilon) == ("unknown", None)


def test_quantities_are_written_for_people():
    assert [wording.duration(seconds) for seconds in (0.04, 59.4, 192, 7500, None)] == [
        "0.0 s",
        "59 s",
        "3 min 12 s",
        "2 h 05 min",
        "—",
    ]
    assert [wording.data_size(value) for value in (0, 999, 1000, 4_200_000, 5e15, None)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "4.2 MB",
        "5000.0 TB",
        "—",
    ]
    assert [wording.small(value) for value in (1e-5, 1e-12, 0.05, None)] == ["1e-5", "1e-12", "0.05", "not recorded"]
    assert wording.count(1234567) == "1\u2009234\u2009567"

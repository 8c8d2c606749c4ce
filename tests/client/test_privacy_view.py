"""What a ledger and a consent say to the person: the gate's own sums, whatever half line another process is writing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta

import pytest

from client.account import Cap
from client.consent import write_consent
from client.home import Home
from client.host import answer
from client.privacy_view import budget, consent_of, left, told
from shared.errors import LedgerError
from shared.privacy.accounting import epsilon_by_zcdp
from shared.proofs import LastReceipt

TODAY = date(2026, 3, 1)  # conftest's
KINDS = ("statistics", "profile", "update", "measurement")


@pytest.fixture
def device(tmp_path, host, history, consent, task, message):
    """``device(kinds, **changes of the task)``: a folder whose ledger answered one task of each kind."""
    write_consent(consent(), tmp_path / "consent.toml")
    made = host([history(0)])

    def ask(kinds=KINDS, **changes):
        for number, kind in enumerate(kinds, 1):
            last = LastReceipt(made.ledger.count, made.ledger.hash_at(made.ledger.count - 1))
            given = {"round": number} | changes
            answer(made, "1", message(task(kind, **given), last if made.ledger.count > 1 else None))
        return Home(tmp_path), made

    return ask


def rho(view, span, delta=1e-3):
    """The rho behind a cap's epsilon: the conversion, solved."""
    epsilon = next(cap.epsilon for cap in view.caps if cap.span == span)
    log = -math.log(delta)
    return (math.sqrt(log + epsilon) - math.sqrt(log)) ** 2


def test_a_new_device_spent_nothing_and_says_so(tmp_path):
    view = budget(Home(tmp_path), TODAY)
    assert [cap.epsilon for cap in view.caps] == [0.0, 0.0, 0.0]
    assert [cap.cap for cap in view.caps] == [None, None, None]
    assert (view.taking_part, view.why_not, view.covers) == (
        False,
        "no consent.toml",
        ("Nothing has left this device.",),
    )
    assert left(Home(tmp_path)).released == left(Home(tmp_path)).declined == ()


def test_the_sums_are_those_that_the_gate_holds_against_consent(device):
    home, made = device()
    spend, view = made.gate.spends["1"], budget(home, TODAY)
    assert rho(view, "lifetime") == pytest.approx(sum(spend.days.values()))
    assert rho(view, "period") == pytest.approx(sum(spend.days.values()))
    assert rho(view, "round") == pytest.approx(max(spend.rounds.values()))
    assert {kind: used for kind, (used, _) in view.runs[0].used.items() if used} == dict.fromkeys(KINDS, 1)
    assert view.runs[0].epsilon == view.caps[-1].epsilon


def test_what_is_older_than_the_period_counts_for_life_only(device):
    home, _ = device()
    view = budget(home, TODAY + timedelta(days=365))
    assert [cap.epsilon > 0 for cap in view.caps] == [True, False, True]
    assert budget(home, TODAY + timedelta(days=364)).caps[1].epsilon > 0  # today is one of the 365


def test_a_clock_that_was_set_back_counts_days_ahead_as_recent(device):
    home, _ = device()
    assert budget(home, TODAY - timedelta(days=9)).caps[1].epsilon > 0


def test_each_release_is_listed_with_its_own_epsilon_newest_first(device, plan):
    home, _ = device()
    released = left(home).released
    assert [one.release for one in released] == list(reversed(KINDS))
    assert all(one.day == TODAY.isoformat() and one.sealed and one.noise == "seeded" for one in released)
    for one in released:
        assert one.epsilon == pytest.approx(epsilon_by_zcdp(plan().mechanism(one.release).rho, 1e-3))


def test_a_refusal_is_listed_with_its_clause_and_cost_nothing(device, plan):
    home, _ = device(("statistics",))
    before = budget(home, TODAY)
    device(("update",), catalogue="f" * 64)
    view = left(home)
    assert len(view.released) == 1
    assert view.declined[0].clause.startswith("catalogue ffffffffffff is not here")
    assert (view.declined[0].release, view.declined[0].since) == ("update", TODAY.isoformat())
    assert budget(home, TODAY) == before


def test_without_privacy_the_epsilons_are_unbounded_for_good(device, plan):
    home, _ = device(("update",), plan=plan(epsilon=None))
    view = budget(home, TODAY)
    assert [cap.epsilon for cap in view.caps] == [None, None, None]
    assert left(home).released[0].epsilon is None
    assert "nothing is claimed" in view.covers[0]


@pytest.mark.parametrize(("trust", "words"), [("local", "adds all the noise"), ("central", "noise is its own")])
def test_the_words_say_against_whom(device, plan, trust, words):
    view = budget(device(("statistics",), plan=plan(trust=trust))[0], TODAY)
    assert any(words in sentence for sentence in view.covers)
    assert view.runs[0].if_others_collude is None


def test_a_distributed_epsilon_comes_with_what_is_left_if_all_others_collude(device):
    run = budget(device(("statistics",))[0], TODAY).runs[0]
    assert run.if_others_collude > run.epsilon
    assert any("if everybody else works with the server" in said for said in budget(device(())[0], TODAY).covers)


@pytest.mark.parametrize("trust", ["local", "central", "distributed"])
def test_no_epsilon_is_told_without_what_it_means(device, plan, trust):
    spent = budget(device(("statistics",), plan=plan(trust=trust))[0], TODAY)
    lines = list(told(spent))
    figures = [line for line in lines if line.startswith(("dearest round", "last ", "lifetime", "run "))]
    assert len(figures) == 4
    for line in figures:
        assert f"(unit user, adjacency zero-out, trust {trust}, delta 0.001)" in line
    shown = float(figures[2].split()[2])
    assert spent.caps[2].epsilon <= shown < spent.caps[2].epsilon + 0.01  # rounded up: it is an upper bound
    assert f"accountant: {spent.accountant}" in lines
    assert set(spent.covers) < set(lines)


def test_a_budget_over_runs_of_several_kinds_names_them_all(device, plan):
    home, _ = device(("statistics",))
    spent = budget(home, TODAY)
    both = (*spent.runs, replace(spent.runs[0], run="r2", unit="interaction", trust="local", epsilon=None))
    lines = list(told(replace(spent, runs=both, caps=(Cap("lifetime", None, 4.0),))))
    assert lines[1].startswith("lifetime: no bound of at most 4 (unit user/interaction, adjacency zero-out, trust ")
    assert "run r2: no bound (unit interaction, adjacency zero-out, trust local, delta 0.001)" in lines[3]


def test_a_release_that_never_left_is_still_paid(device):
    home, made = device(("statistics",))
    kept = [line for line in home.ledger.read_bytes().splitlines(keepends=True) if b'"type":"result"' not in line]
    made.close()
    home.ledger.write_bytes(b"".join(kept[:3]))  # opened, plan, intent
    assert [one.sealed for one in left(home).released] == [False]
    assert budget(home, TODAY).caps[-1].epsilon > 0


def test_half_a_line_that_is_being_written_is_not_read(device):
    home, _ = device(("statistics",))
    whole = left(home)
    raw = home.ledger.read_bytes()
    home.ledger.write_bytes(raw + raw[:100])
    assert left(home) == whole


def test_an_edited_ledger_is_refused_with_its_line(device):
    home, _ = device(("statistics",))
    home.ledger.write_bytes(home.ledger.read_bytes().replace(b'"rho":0.', b'"rho":9.'))
    with pytest.raises(LedgerError, match=r"ledger\.jsonl:3"):
        left(home)


def test_the_budget_is_read_while_the_ledger_is_locked(device):
    home, made = device(("statistics",))
    assert not made.ledger.handle.closed  # the host holds the lock
    assert budget(home, TODAY).caps[-1].epsilon > 0


def test_a_consent_that_cannot_be_understood_is_none(tmp_path):
    (tmp_path / "consent.toml").write_text("enabled = 7\n")
    consent, why = consent_of(Home(tmp_path))
    assert consent is None
    assert "enabled = 7" in why
    assert not budget(Home(tmp_path), TODAY).taking_part


def test_nothing_heavy_is_imported():
    code = "import json, sys, client.privacy_view, client.api; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert not {"torch", "flwr", "opacus", "sklearn", "scipy", "dp_accounting", "transformers"} & set(loaded)

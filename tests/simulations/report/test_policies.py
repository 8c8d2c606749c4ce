"""The policy on the page: every version carries its reason, every order its person, prices and scores in one line."""

from __future__ import annotations

from simulations.report import figures, policies
from simulations.report.folder import read_run

PRICED = {"exposure_prices": [0, 5, 0, 120]}


def order(outcome, version, kind="approve", **more):
    said = {"file": "x.json", "order": kind, "who": "ann", "when": "2026-01-01", "why": "seen it", "outcome": outcome}
    return {**said, "reason": f"it was {outcome}", "version": version, **more}


def steered(record):
    """Six rounds: a proposal after 1, approved before 3, a freeze before 4, a rollback before 5, refusals before 6."""
    number = record["round"]
    version = {1: 1, 2: 1, 3: 2, 4: 2}.get(number, 3)
    policy = record["policy"] | {"version": version, "frozen": number > 3, "depth": 300 if version == 2 else 200}
    orders = {
        3: [order("approved", 2)],
        4: [order("frozen", 2, "freeze", why="")],
        5: [order("rolled back", 3, "rollback")],
        6: [
            order("refused", 3, "thaw"),
            order("refused", 3, None, who=None, why=None, reason="not an order: not JSON"),
        ],
    }
    waits = {"id": "1a2b3c4d", "round": 1, "reason": "coverage is low", "policy": record["policy"] | {"depth": 300}}
    return record | {
        "policy": policy,
        "decision": "proposal" if number == 1 else "hold",
        "reason": f"round {number}",
        "orders": orders.get(number, []),
        "pending": waits if number < 3 else None,
    }


def test_a_version_carries_the_decision_of_the_round_before_it_and_what_it_changed(run_folder):
    found = policies.versions(read_run(run_folder(rounds=40)))
    assert [(one.version, one.since, one.until, one.decision) for one in found] == [
        ("1", 1, 8, "start"),
        ("2", 9, 16, "move"),
        ("3", 17, 20, "move"),
        ("4", 21, 28, "rollback"),
        ("5", 29, 40, "move"),
    ]
    assert found[1].changes == (("depth", "200", "300"), ("exposure_price", "0", "0.01"))
    assert ("features", "text, popularity", "text, category, popularity") in found[2].changes
    assert found[3].reason.startswith("recall fell by 0.031")
    assert found[2].decisions == (("hold", 1), ("rollback", 1))


def test_a_version_that_a_person_made_carries_the_order_and_the_persons_words(run_folder):
    found = policies.versions(read_run(run_folder(rounds=6, each=steered)))
    assert [(one.version, one.since, one.until, one.decision, one.reason) for one in found] == [
        ("1", 1, 2, "start", "The policy that the run began with."),
        ("2", 3, 4, "approved", "ann: it was approved (“seen it”)"),
        ("3", 5, 6, "rolled back", "ann: it was rolled back (“seen it”)"),
    ]
    assert found[1].changes == (("depth", "200", "300"),)
    assert ("depth", "300", "200") in found[2].changes
    assert found[0].decisions == (("proposal", 1), ("hold", 1))


def test_the_log_holds_decisions_and_orders_in_the_order_in_which_they_came(run_folder):
    found = policies.decisions(read_run(run_folder(rounds=6, each=steered)))
    assert [(one.when, one.who, one.decision) for one in found] == [
        ("1", "controller", "proposal"),
        ("2", "controller", "hold"),
        ("before 3", "ann", "approved"),
        ("3", "controller", "hold"),
        ("before 4", "ann", "frozen"),
        ("4", "controller", "hold"),
        ("before 5", "ann", "rolled back"),
        ("5", "controller", "hold"),
        ("before 6", "ann", "refused"),
        ("before 6", "a file", "refused"),
        ("6", "controller", "hold"),
    ]
    assert [one.reason for one in found if one.decision == "refused"] == [
        "order to thaw: it was refused (“seen it”)",
        "not an order: not JSON",
    ]
    assert found[4].reason == "it was frozen"  # no words, no quotes


def test_a_proposal_that_waits_says_what_it_would_change(run_folder):
    waits = policies.proposal(read_run(run_folder("two", rounds=2, each=steered)))
    assert (waits.id, waits.round, waits.reason) == ("1a2b3c4d", "1", "coverage is low")
    assert waits.changes == (("depth", "200", "300"),)
    assert policies.proposal(read_run(run_folder("six", rounds=6, each=steered))) is None
    assert policies.proposal(read_run(run_folder("none", rounds=0))) is None


def test_prices_are_how_many_pay_and_the_range_wherever_they_show(run_folder):
    priced = lambda r: r | {"policy": r["policy"] | ({"exposure_prices": []} if r["round"] < 3 else PRICED)}  # noqa: E731
    run = read_run(run_folder(rounds=4, each=lambda r: priced(r | {"policy": r["policy"] | {"version": r["round"]}})))
    assert policies.prices_now(run) == "2 of 4 buckets pay, 0.05 to 1.20 logits"
    changed = {name: (old, new) for name, old, new in policies.versions(run)[2].changes}
    assert changed == {
        "exposure_prices.buckets paying": ("0", "2"),
        "exposure_prices.lowest": ("0", "0.05"),
        "exposure_prices.highest": ("0", "1.2"),
    }
    knobs = {knob.name: knob for knob in figures.knobs(run)}
    assert knobs["exposure_prices.highest"].svg
    free_again = lambda r: r | {"policy": r["policy"] | (PRICED if r["round"] == 2 else {"exposure_prices": [0]})}  # noqa: E731
    said = policies.prices_now(read_run(run_folder("free again", rounds=3, each=free_again)))
    assert said == "nobody pays; most in round 2, where 2 of 4 buckets pay, 0.05 to 1.20 logits"
    assert policies.prices_now(read_run(run_folder("free", rounds=2))) == ""
    assert policies.prices_text({"exposure_prices": [0, 0]}) == "nobody pays"


def test_scores_of_neighbours_name_the_neighbour_and_what_one_report_says_alone(run_folder):
    def scored(record):
        differences = [(0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (-0.0001, -0.01, 0.01)]
        estimate = {"shadows": [dict(zip(("value", "low", "high"), d, strict=True)) for d in differences]}
        return record | {"estimate": estimate, "neighbours": ["depth up", "price up"]}

    found = policies.scores(read_run(run_folder(rounds=2, each=scored)))
    assert [(one.round, one.name, one.difference, one.interval, one.verdict) for one in found] == [
        (2, "depth up", "+0.020", "+0.010 to +0.030", "better"),
        (2, "price up", "-0.020", "-0.030 to -0.010", "worse"),
        (2, "the policy in force again", "+0.000", "-0.010 to +0.010", "cannot be told"),
        (1, "depth up", "+0.020", "+0.010 to +0.030", "better"),
        (1, "price up", "-0.020", "-0.030 to -0.010", "worse"),
        (1, "the policy in force again", "+0.000", "-0.010 to +0.010", "cannot be told"),
    ]
    assert 'aria-label="depth up: +0.020"' in found[0].svg
    assert policies.scores(read_run(run_folder("none"))) == ()

"""The gate: the client decides, from its consent, its clock, and what its own ledger says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import gate as module
from client.consent import Consent, consent_to, noise_of, own_noise
from client.gate import BEHIND, Gate, Pin, Request, Spend, learn, refusals
from client.gate import _clauses as clauses_of
from shared.errors import DeclinedError, LedgerError
from shared.policy.recall_policy import GROUPS
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.plan import RELEASES
from shared.proofs import ServerStamp

HERE = "c" * 64  # this side's catalogue
SERVER, OTHER = "a" * 64, "b" * 64
TODAY = date(2026, 3, 1)


@pytest.fixture
def request_of(plan):
    """``request_of(release="update", epsilon=..., **changes)``: fields of the request or of the plan's target."""

    def make(release="update", **changes):
        said = {"run": "run", "round": 1, "attempt": 1, "catalogue": HERE, "features": ("text",)}
        said |= {"server": SERVER, "digest": "d" * 64, "length": 5, "private": False}
        chosen = {name: changes.pop(name, value) for name, value in said.items()}
        chosen["server"] = ServerStamp(chosen["server"], "5" * 64)
        made = changes.pop("plan", None) or plan(**changes)
        return Request(release, plan=made, **chosen)

    return make


@pytest.fixture
def gate(consent):
    """``gate(**consent)``: a gate for client "1"."""
    return lambda **changes: Gate(HERE, {"1": consent(**changes), "2": consent()})


def ask(gate, request, *, client="1", today=TODAY, behind=False):
    for clause in refusals(gate, request, {client: behind}, today=today).values():
        raise DeclinedError(clause)


def refused(gate, request, clause, **said):
    with pytest.raises(DeclinedError) as error:
        ask(gate, request, **said)
    assert clause in str(error.value)


def pay(gate, request, *, client="1", today=TODAY, times=1):
    """What the ledger says after an intent."""
    if request.run not in gate.pins:
        plan = {"type": "plan", "run": request.run, "plan": asdict(request.plan), "catalogue": request.catalogue}
        learn(gate, {**plan, "server": request.server.key}, "here")
    rho = None if request.plan.epsilon is None else request.rho
    intent = {"type": "intent", "client": client, "run": request.run, "round": request.round, "rho": rho}
    for attempt in range(request.attempt, request.attempt + times):
        rest = {"attempt": attempt, "release": request.release, "day": today.isoformat()}
        learn(gate, intent | rest, "here")


# --- consent


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("trust", ["local", "distributed", "central"])
def test_what_consent_allows_passes(release, trust, gate, request_of):
    ask(gate(), request_of(release, trust=trust))


def test_without_a_consent_everything_is_declined(gate, request_of):
    refused(gate(), request_of(), "no consent.toml", client="3")
    refused(Gate(HERE, {}, "home/consent.toml: enabled = 7: ..."), request_of(), "home/consent.toml: enabled = 7")


class Fresh(Mapping):
    """Consents that are made when asked for, and gone right after."""

    def __init__(self, make, clients):
        self.make, self.clients = make, clients

    def __getitem__(self, client):
        return self.make(client)

    def __iter__(self):
        raise AssertionError("everybody is listed")

    def __len__(self):
        return len(self.clients)


def test_each_client_is_held_against_its_own_consent_also_where_consents_are_made_when_asked_for(consent, request_of):
    asked = dict.fromkeys(map(str, range(50)), False)
    gate = Gate(HERE, Fresh(lambda client: consent(enabled=client in {"7", "30"}), asked))
    declined = refusals(gate, request_of(), asked, today=TODAY)
    assert set(asked) - set(declined) == {"7", "30"}
    assert set(declined.values()) == {"consent.enabled: this client takes part in nothing"}


def test_what_one_consent_says_of_a_task_is_worked_out_once_and_every_client_pays_for_itself(
    consent, request_of, monkeypatch
):
    looked_at, request = [], request_of()
    monkeypatch.setattr(module, "_clauses", lambda *said: looked_at.append(said) or clauses_of(*said))
    gate = Gate(HERE, dict.fromkeys("12345", consent()) | {"6": consent()})
    pay(gate, request, client="2")
    asked = dict.fromkeys("123456", False) | {"3": True}
    declined = refusals(gate, request, asked, today=TODAY)
    assert {client: clause[:6] for client, clause in declined.items()} == {"2": "replay", "3": BEHIND[:6]}
    assert len(looked_at) == 2


# consent, what is asked, the clause; the release is an update unless said
CLAUSES = [
    ({"enabled": False}, {}, "consent.enabled: this client takes part in nothing"),
    (
        {"unit": ("user",)},
        {"unit": "interaction", "trust": "local"},
        "consent.unit: 'interaction' is none of ('user',)",
    ),
    ({"trust": ("local", "distributed")}, {"trust": "central"}, "consent.trust: 'central' is none of"),
    ({"trust": ("local",)}, {}, "consent.trust: 'distributed' is none of ('local',)"),
    ({"allow_without_privacy": False}, {"epsilon": None}, "consent.allow_without_privacy: the plan promises no"),
    ({"smallest_cohort": 5}, {}, "consent.smallest_cohort: 4 clients, at least 5 are asked for"),
    ({"smallest_cohort": 5}, {"trust": "central"}, "consent.smallest_cohort: 4 clients, at least 5"),
    ({"largest_clip": 0.4}, {}, "consent.largest_clip: update is clipped at 0.5, at most 0.4 is allowed"),
    ({"largest_clip": 0.9}, {"release": "statistics"}, "consent.largest_clip: statistics is clipped at 1, at most 0.9"),
    ({"largest_clip": 0.4}, {"epsilon": None}, "consent.largest_clip"),
    ({"smallest_noise": 9.0}, {}, "consent.smallest_noise: update has"),
    ({"smallest_noise": 9.0}, {"release": "measurement"}, "consent.smallest_noise: measurement has"),
    ({"smallest_noise": 9.0}, {"release": "update", "trust": "local"}, "consent.smallest_noise: update has"),
    ({"smallest_own_noise": 9.0}, {}, "consent.smallest_own_noise: update has"),
    ({"smallest_own_noise": 1e-9}, {"trust": "central"}, "consent.smallest_own_noise: update has 0 per clip"),
    ({"features": ("text",)}, {"features": ("text", "lexical", "category")}, "consent.features: lexical, category may"),
    ({"features": ()}, {}, "consent.features: text may not be switched on"),
    ({"servers": (OTHER,)}, {}, f"consent.servers: {SERVER} is not among them"),
    ({"epsilon_per_round": 0.1}, {}, "consent.epsilon_per_round:"),
    ({"epsilon_per_period": 0.1}, {}, "consent.epsilon_per_period:"),
    ({"epsilon_lifetime": 0.1}, {}, "consent.epsilon_lifetime:"),
]


@pytest.mark.parametrize(("said", "asked", "clause"), CLAUSES, ids=[f"{n}-{c[2][:40]}" for n, c in enumerate(CLAUSES)])
def test_a_broken_clause_is_named(said, asked, clause, gate, request_of):
    one = gate(**said)
    refused(one, request_of(**asked), clause)
    ask(one, request_of(**asked), client="2")  # who agrees takes part


def test_every_field_of_a_consent_is_held_against_something():
    elsewhere = {"behaviour", "roster_key", "period_days", "delta"}  # left out silently; the roster's; of the caps
    assert {clause.split(":")[0].removeprefix("consent.") for _, _, clause in CLAUSES} == (
        set(Consent.model_fields) - elsewhere
    )


NUMBERS = {
    "smallest_noise": (lambda plan, kind: noise_of(plan.mechanism(kind)), +1),
    "smallest_own_noise": (own_noise, +1),
    "largest_clip": (lambda plan, kind: plan.mechanism(kind).clip, -1),
    "smallest_cohort": (lambda plan, _kind: plan.smallest_cohort, +1),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("release", RELEASES)
def test_a_bound_is_kept_exactly(name, release, gate, request_of):
    value, beyond = NUMBERS[name]
    asked = request_of(release)
    at = value(asked.plan, release)
    ask(gate(**{name: at}), asked)
    refused(gate(**{name: at + beyond * (1 if name == "smallest_cohort" else at * 1e-6)}), asked, f"consent.{name}")


def test_noise_is_counted_per_sensitivity_and_over_local_steps(plan):
    local = plan(trust="local", local_steps=4)
    assert noise_of(local.update) == pytest.approx(local.update.noise_multiplier / 2)
    event = plan(trust="local", unit="interaction")
    assert noise_of(event.update) == pytest.approx(event.update.noise_multiplier / 2)
    for each in (local, event):
        assert each.update.rho == pytest.approx(1 / (2 * noise_of(each.update) ** 2))


def test_the_own_share_is_what_is_left_if_all_others_belong_to_the_server(plan):
    shared = plan(collusion=0.5)  # of four, two make up the noise
    assert own_noise(shared, "update") == pytest.approx(shared.update.noise_multiplier / 2**0.5)
    assert own_noise(plan(trust="central"), "update") == 0
    assert own_noise(plan(trust="local"), "update") == plan(trust="local").update.noise_multiplier


def test_a_cohort_hides_nothing_where_each_vector_is_private_by_itself(gate, request_of):
    ask(gate(smallest_cohort=1000), request_of(trust="local"))


@pytest.mark.parametrize("trust", ["local", "distributed", "central"])
@pytest.mark.parametrize("epsilon", [8.0, 0.5, None])
def test_a_consent_to_a_plan_covers_all_of_it_and_nothing_more(trust, epsilon, plan, request_of):
    made = plan(trust=trust, epsilon=epsilon)
    one = Gate(HERE, {"1": consent_to(made)})
    often = {"update": 3, "measurement": 2, "trending": 2}
    spread = [("statistics", 0), ("profile", 0), *((kind, n + 1) for kind, most in often.items() for n in range(most))]
    for release, number in spread:
        asked = request_of(release, plan=made, round=number, features=GROUPS)
        ask(one, asked)
        pay(one, asked)
    refused(one, request_of("update", plan=made, round=4), "all 3 participations are used up")
    again = request_of("update", plan=made, run="another")
    if epsilon is None:
        ask(one, again)
    else:
        refused(one, again, "consent.epsilon_")


def test_a_consent_to_a_plan_is_none_to_a_weaker_one(plan, request_of):
    one = Gate(HERE, {"1": consent_to(plan())})
    for changes, clause in (
        ({"epsilon": 9.0}, "smallest_noise"),
        ({"epsilon": None}, "allow_without_privacy"),
        ({"trust": "central"}, "trust"),
        ({"smallest_cohort": 3}, "smallest_cohort"),
        ({"collusion": 0.0, "clip": 1.5}, "largest_clip"),
    ):
        refused(one, request_of(plan=plan(**changes)), f"consent.{clause}")
    narrow = Gate(HERE, {"1": consent_to(plan(), ("text",))})
    refused(narrow, request_of(features=("text", "popularity")), "consent.features: popularity")


# --- caps: rho adds up over all runs, epsilon is taken of the sum


def capped(request, times, delta=1e-3):
    """Just enough for so many releases like this one."""
    return epsilon_by_zcdp(times * request.rho, delta) * (1 + 1e-9)


def test_a_round_is_capped_over_its_retries_and_kinds(gate, request_of):
    first = request_of()
    one = gate(epsilon_per_round=capped(first, 2))
    pay(one, first)
    ask(one, request_of(attempt=2))
    pay(one, request_of(attempt=2))
    refused(one, request_of(attempt=3), "consent.epsilon_per_round")
    refused(one, request_of("measurement"), "consent.epsilon_per_round")
    ask(one, request_of(round=2))
    ask(one, request_of(attempt=3), client="2")


def test_a_period_renews_by_the_clock(gate, request_of):
    first = request_of()
    one = gate(epsilon_per_period=capped(first, 2), period_days=7)
    pay(one, first, times=2)
    later = request_of(round=2)
    for days in (0, 1, 6):
        refused(one, later, "consent.epsilon_per_period", today=TODAY + timedelta(days=days))
    ask(one, later, today=TODAY + timedelta(days=7))


def test_a_clock_that_is_set_back_renews_nothing(gate, request_of):
    first = request_of()
    one = gate(epsilon_per_period=capped(first, 2), period_days=7)
    pay(one, first, times=2)
    refused(one, request_of(round=2), "consent.epsilon_per_period", today=TODAY - timedelta(days=1000))


def test_a_lifetime_is_capped_over_runs_and_plans_and_never_renews(gate, request_of):
    first, second = request_of(), request_of(run="next year", epsilon=4.0)
    one = gate(epsilon_lifetime=epsilon_by_zcdp(2 * first.rho + second.rho, 1e-3) * (1 + 1e-9), period_days=1)
    pay(one, first, times=2, today=TODAY - timedelta(days=400))
    ask(one, second)
    pay(one, second)
    for days in (0, 1, 10_000):
        refused(one, replace(second, round=2), "consent.epsilon_lifetime", today=TODAY + timedelta(days=days))
    ask(one, replace(second, round=2), client="2")


@settings(max_examples=60, deadline=None)
@given(days=st.lists(st.integers(0, 40), min_size=1, max_size=12), cap=st.integers(1, 6), length=st.integers(1, 20))
def test_whatever_the_server_asks_no_window_of_the_period_holds_more_than_its_cap(days, cap, length):
    from shared.privacy.calibration import make_plan
    from shared.privacy.plan import Target

    shares = {"update": 1.0, "measurement": 0.0, "statistics": 0.0, "profile": 0.0}
    made = make_plan(
        Target("simulation", "user", "distributed", 8.0, 1e-3, 6, 4, 0.0, 99, 99, 0, shares, 100, 0.5, users=6)
    )
    server = ServerStamp(SERVER, "5" * 64)
    first = Request("update", "run", 1, 1, made, HERE, (), server, "d" * 64, 5, private=False)
    limits = {"epsilon_per_round": 1000, "epsilon_lifetime": 1000, "epsilon_per_period": capped(first, cap, 1e-6)}
    one = Gate(HERE, {"1": Consent(smallest_cohort=1, smallest_noise=0, period_days=length, **limits)})
    answered = []
    for number, day in enumerate(sorted(days), 1):
        today = date(2026, 1, 1) + timedelta(days=day)
        try:
            ask(one, replace(first, round=number), today=today)
        except DeclinedError:
            continue
        pay(one, replace(first, round=number), today=today)
        answered.append(day)
    assert len(answered) >= min(cap, len(days))
    assert all(sum(start <= day < start + length for day in answered) <= cap for start in range(41))


def test_after_a_release_without_privacy_no_cap_can_be_kept(gate, request_of):
    one, bare = gate(), request_of(epsilon=None, run="bare")
    for number in (1, 2):
        ask(one, replace(bare, round=number))
        pay(one, replace(bare, round=number))
    refused(one, request_of(), "consent.epsilon_per_period: epsilon infinite with this release")
    refused(one, request_of(), "consent.epsilon_lifetime: epsilon infinite", today=TODAY + timedelta(days=400))


# --- servers


def test_without_named_servers_the_first_is_the_only_one(gate, request_of):
    one = gate()
    ask(one, request_of(server=OTHER))
    pay(one, request_of())
    ask(one, request_of(run="next"))
    refused(one, request_of(run="next", server=OTHER), f"consent.servers: none named, so the first, {SERVER}; not")


def test_the_first_stays_the_first_when_names_are_struck_out_again(gate, request_of, consent):
    one = gate(servers=(SERVER, OTHER))
    pay(one, request_of())
    pay(one, request_of(run="next", server=OTHER))
    one.consents = {"1": consent()}
    ask(one, request_of(run="third"))
    refused(one, request_of(run="third", server=OTHER), f"consent.servers: none named, so the first, {SERVER}; not")


def test_named_servers_are_all_accepted_each_with_its_own_runs(gate, request_of):
    one = gate(servers=(SERVER, OTHER))
    pay(one, request_of())
    ask(one, request_of(run="next", server=OTHER))
    refused(one, request_of(server=OTHER), f"run 'run' is of server {SERVER}, not of {OTHER}")
    refused(one, request_of(server="e" * 64), "consent.servers")


# --- what was pinned


def test_a_run_keeps_the_plan_it_began_with_and_another_run_may_have_another(gate, request_of):
    one = gate()
    pay(one, request_of())
    ask(one, request_of(round=2))
    refused(one, request_of(round=2, epsilon=4.0), "run 'run': the plan changed")
    ask(one, request_of(run="next", epsilon=4.0))


@pytest.mark.parametrize("field", ["clip", "noise_multiplier", "participations"])
def test_one_other_number_is_another_plan(field, gate, request_of):
    one, first = gate(), request_of()
    pay(one, first)
    changed = replace(first.plan.update, **{field: getattr(first.plan.update, field) + 1})
    refused(one, replace(first, round=2, plan=replace(first.plan, update=changed)), "the plan changed")


def test_a_catalogue_that_is_not_here_or_not_the_runs_is_declined(gate, request_of):
    one = gate()
    refused(one, request_of(catalogue="d" * 64), "catalogue dddddddddddd is not here; this client has cccccccccccc")
    pay(one, request_of())
    newer = Gate("d" * 64, one.consents, pins=one.pins, spends=one.spends)
    refused(newer, request_of(round=2, catalogue="d" * 64), "run 'run' began with catalogue cccccccccccc")


# --- once, K times, never twice


def test_a_task_is_answered_once(gate, request_of):
    one, first = gate(), request_of()
    pay(one, first)
    refused(one, first, "replay: update of round 1, attempt 1, was paid")
    refused(one, replace(first, digest="e" * 64), "replay")  # other words under the same name
    ask(one, first, client="2")
    for other in (request_of(round=2), request_of(attempt=2), request_of("measurement"), request_of(run="next")):
        ask(one, other)


@pytest.mark.parametrize(
    ("release", "limit"), [("update", 3), ("measurement", 2), ("statistics", 1), ("profile", 1), ("trending", 2)]
)
def test_each_kind_has_its_own_participations_per_run(release, limit, gate, request_of):
    one, first = gate(), request_of(release)
    pay(one, first, times=limit - 1)
    ask(one, replace(first, round=9))
    pay(one, replace(first, round=2))
    refused(one, replace(first, round=9), f"{release}: all {limit} participations are used up")
    pay(one, replace(first, round=3), times=5)  # a ledger that holds more than it should refills nothing
    refused(one, replace(first, round=9), f"{release}: all {limit} participations are used up")
    ask(one, replace(first, round=9), client="2")  # everybody pays for itself
    ask(one, replace(first, run="next"))
    pay(one, replace(first, run="next"), times=limit)
    refused(one, replace(first, run="next", round=9), f"{release}: all {limit} participations are used up")
    for other in set(RELEASES) - {release}:
        ask(one, replace(first, release=other))


def test_a_ledger_behind_the_servers_receipt_is_declined(gate, request_of):
    refused(gate(), request_of(), BEHIND, behind=True)


# --- the ledger is the only memory


def test_intents_are_the_spend_with_or_without_a_result(gate):
    one = gate()
    task = {"client": "1", "run": "run", "round": 1, "attempt": 1, "release": "update"}
    paid = {"type": "intent", "rho": 0.25, "day": "2026-03-01"}
    for event in (
        {"type": "opened"},
        task | paid,
        task | paid | {"attempt": 2},
        task | {"type": "result"},
        task | paid | {"client": "2", "rho": None},
        task | {"type": "decline", "clause": "no"},
        {"type": "head", "round": 1},
    ):
        learn(one, event, "here")
    day = TODAY.toordinal()
    name = ("run", 1, 1, "update")
    assert one.spends["1"] == Spend(
        {("run", "update"): 2}, {name, ("run", 1, 2, "update")}, {("run", 1): 0.5}, {day: 0.5}
    )
    inf = float("inf")
    assert one.spends["2"] == Spend({("run", "update"): 1}, {name}, {("run", 1): inf}, {day: inf})
    assert one.pins == {}


def test_a_plan_line_pins_its_run(gate, plan):
    one = gate()
    event = {"type": "plan", "run": "r", "plan": asdict(plan()), "catalogue": HERE, "server": SERVER}
    learn(one, event, "here")
    assert one.pins == {"r": Pin(plan().digest(), HERE, SERVER)}


A_PLAN = {"type": "plan", "run": "r", "plan": {}, "catalogue": HERE, "server": SERVER}
AN_INTENT = {"type": "intent", "client": "1", "run": "r", "round": 1, "attempt": 1, "release": "update"}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "plan"},
        A_PLAN,
        A_PLAN | {"plan": None},
        {"type": "intent", "client": "1"},
        AN_INTENT | {"rho": 1, "day": 7},
        AN_INTENT | {"rho": 1, "day": "2026"},
        AN_INTENT | {"rho": "x", "day": "2026-01-01"},
        AN_INTENT | {"rho": 1, "day": "2026-01-01", "client": []},
    ],
    ids=range(8),
)
def test_a_line_that_no_client_writes_is_refused_with_its_place(event, gate):
    with pytest.raises(LedgerError, match=f"a.jsonl:3: not a {event['type']} as a client writes it"):
        learn(gate(), event, "a.jsonl:3")

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.audit.evidence import Charge, Head, Payment, Pin, Refusal, Sealed, Sum
from shared.audit.fields import LONGEST_NAME, LONGEST_TEXT
from shared.audit.records import Kept, Odd, Opened, client_record, opened, plan_of, server_record
from shared.privacy.chain import Line

DOCS = Path(__file__).parents[3] / "docs" / "ledger.md"
LINES = [json.loads(raw) for raw in re.findall(r'^\{"event":\{".*\}$', DOCS.read_text(encoding="utf-8"), re.MULTILINE)]
HASH = "ab" * 32

CHARGE = {
    "type": "intent",
    "round": 1,
    "attempt": 1,
    "release": "update",
    "task": HASH,
    "cohort": ["1", "2"],
    "rho": 0.5,
    "noise_source": "clients",
}
RECEIPT = {"key": HASH, "seq": 3, "tip": HASH, "round": 1, "signature": "cd" * 64, "clients": ["1"]}
SUM = {
    "type": "result",
    "round": 1,
    "attempt": 1,
    "release": "update",
    "survivors": 1,
    "declined": ["2"],
    "failed": [],
    "sum_sigma": 3.5,
    "sum": HASH,
    "aborted": False,
    "why": "",
    "receipts": [RECEIPT],
}
PAYMENT = {
    "type": "intent",
    "client": "1",
    "run": "r",
    "round": 1,
    "attempt": 1,
    "release": "update",
    "task": HASH,
    "server": HASH,
    "day": "2026-02-28",
    "rho": 0.5,
    "share_sigma": 2.5,
    "noise_source": "os",
}
SEALED = {"type": "result", "client": "1", "run": "r", "round": 1, "attempt": 1, "release": "update", "sealed": HASH}
PIN = {"type": "plan", "kind": "simulation", "run": "r", "plan": {}, "catalogue": "c", "server": HASH}
HEAD = {"type": "head", "round": 1, "signature": "cd" * 64}
DECLINE = {"type": "decline", "client": "1", "clause": "consent.rho: spent"}


def server(event, line=5):
    return server_record(Line(line, event, HASH), "0" * 64)


def client(event, line=5):
    return client_record(Line(line, event, HASH), "0" * 64)


def without(event, name):
    return {key: value for key, value in event.items() if key != name}


# --- what is written is what is read


def test_every_line_shown_in_the_ledgers_schema_becomes_a_record():
    kinds = set()
    for raw in LINES:
        line, event = Line(raw["seq"], raw["event"], raw["hash"]), raw["event"]
        if raw["seq"] == 1:
            made = opened(line)
        else:
            mine = "client" in event or event["type"] == "plan"
            made = (client_record if mine else server_record)(line, raw["prev"])
        assert not isinstance(made, Odd), made
        kinds.add(type(made))
    assert kinds == {Opened, Pin, Charge, Payment, Sum, Sealed, Refusal, Kept, Head}


def test_a_charge_says_what_was_asked():
    made = server(CHARGE)
    assert made == Charge(5, HASH, 1, 1, "update", HASH, ("1", "2"), 0.5, "clients")


def test_a_sum_holds_its_receipts_with_the_clients_that_they_are_of():
    made = server(SUM)
    assert (made.survivors, made.declined, made.sum_sigma, made.aborted) == (1, ("2",), 3.5, False)
    [(receipt, clients)] = made.receipts
    assert {**asdict(receipt), "clients": list(clients)} == RECEIPT


def test_an_exchange_without_receipts_is_a_sum_that_has_none():
    named = {name: SUM[name] for name in ("type", "round", "attempt", "release", "survivors", "sum_sigma", "sum")}
    made = server(named)
    assert (made.declined, made.failed, made.receipts, made.aborted, made.why) == ((), (), (), False, "")


def test_a_payment_and_its_vector_name_the_same_task():
    paid, left = client(PAYMENT), client(SEALED)
    same = ("client", "run", "round", "attempt", "release")
    assert [getattr(paid, name) for name in same] == [getattr(left, name) for name in same]
    assert (paid.server, paid.day, paid.share_sigma, paid.noise_source) == (HASH, "2026-02-28", 2.5, "os")


def test_a_head_knows_the_line_before_it():
    assert client(HEAD) == server(HEAD) == Head(5, 1, "0" * 64, "cd" * 64)


def test_a_release_without_privacy_costs_nothing_that_could_be_said():
    assert server({**CHARGE, "rho": None}).rho is None
    assert client({**PAYMENT, "rho": None}).rho is None
    assert server(without(CHARGE, "rho")).field == "rho"


def test_a_refusal_may_be_of_no_task_at_all():
    assert client(DECLINE) == Refusal(5, "1", "consent.rho: spent", None, None, None)
    assert client({**DECLINE, "run": "r", "round": 2, "release": "update"}).round == 2


def test_a_pin_whose_plan_is_none_still_says_which_run_it_was():
    made = client(PIN)
    assert (made.plan, made.run, made.server) == (None, "r", HASH)
    assert "expected exactly the fields" in plan_of({})[1]


def test_what_a_server_may_write_at_any_length_is_cut_off():
    assert len(client({**DECLINE, "clause": "x" * 10_000}).clause) == LONGEST_TEXT
    assert client({**DECLINE, "client": "x" * (LONGEST_NAME + 1)}).field == "client"


# --- what is not


@pytest.mark.parametrize("value", [None, True, -1, 1.0, "1", [], {}, 1 << 60])
@pytest.mark.parametrize("name", ["round", "attempt", "survivors"])
def test_a_count_is_a_whole_number(name, value):
    assert server({**SUM, name: value}) == Odd(5, "entry-malformed", "result", name)


@pytest.mark.parametrize("value", [None, True, -0.1, float("nan"), float("inf"), 10**400, "3.5", []])
def test_noise_is_a_finite_number(value):
    assert server({**SUM, "sum_sigma": value}) == Odd(5, "entry-malformed", "result", "sum_sigma")
    assert client({**PAYMENT, "share_sigma": value}) == Odd(5, "entry-malformed", "intent", "share_sigma")


@pytest.mark.parametrize(
    ("event", "name", "value"),
    [
        (CHARGE, "release", "updates"),
        (CHARGE, "task", "AB" * 32),
        (CHARGE, "task", "ab"),
        (CHARGE, "cohort", "12"),
        (CHARGE, "cohort", ["1", 2]),
        (CHARGE, "cohort", ["1", "1"]),
        (CHARGE, "attempt", 0),
        (CHARGE, "noise_source", None),
        (SUM, "aborted", 0),
        (SUM, "why", None),
        (SUM, "receipts", {}),
        (SUM, "receipts", [without(RECEIPT, "key")]),
        (SUM, "receipts", [{**RECEIPT, "seq": 0}]),
        (SUM, "receipts", [{**RECEIPT, "signature": "cd" * 63}]),
        (SUM, "receipts", [None]),
        (HEAD, "signature", "no"),
    ],
)
def test_a_malformed_entry_of_a_server_names_its_field(event, name, value):
    assert server({**event, name: value}) == Odd(5, "entry-malformed", event["type"], name)


@pytest.mark.parametrize(
    ("event", "name", "value"),
    [
        (PAYMENT, "day", "2026-02-30"),
        (PAYMENT, "day", "20260228"),
        (PAYMENT, "server", ""),
        (PAYMENT, "client", 1),
        (SEALED, "sealed", "x" * 64),
        (PIN, "kind", "test"),
        (PIN, "plan", []),
        (PIN, "server", None),
        (DECLINE, "clause", 1),
        (DECLINE, "round", None),
    ],
)
def test_a_malformed_entry_of_a_client_names_its_field(event, name, value):
    assert client({**event, name: value}) == Odd(5, "entry-malformed", event["type"], name)


def test_an_entry_of_a_type_that_nobody_knows_is_said_to_be_one():
    assert server({"type": "gift"}) == Odd(5, "entry-unknown", "gift", "")
    assert client({"type": "x" * 1000}) == Odd(5, "entry-unknown", "x" * 40, "")


@pytest.mark.parametrize("event", [PIN, PAYMENT, SEALED, DECLINE, {"type": "opened"}])
def test_a_clients_entry_in_a_servers_ledger_is_misplaced(event):
    assert server(event).check == "entry-misplaced"


@pytest.mark.parametrize("event", [CHARGE, SUM, {"type": "decision"}, {"type": "order"}, {"type": "end"}])
def test_a_servers_entry_in_a_clients_ledger_is_misplaced(event):
    assert client(event).check == "entry-misplaced"


@pytest.mark.parametrize("raw", [None, [], "plan", 3, {"unit": "user"}, {"plan": float("nan")}, {1, 2}])
def test_what_is_no_plan_is_none_and_says_why(raw):
    plan, why = plan_of(raw)
    assert plan is None
    assert why


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
EVENTS = [CHARGE, SUM, PAYMENT, SEALED, PIN, HEAD, DECLINE, {"type": "decision", "round": 1}, {"type": "end"}]


@settings(deadline=None)
@given(st.sampled_from(EVENTS), st.data(), JSON)
def test_whatever_stands_in_a_field_the_entry_is_a_record_or_odd(event, data, value):
    name = data.draw(st.sampled_from(sorted(event)))
    for read in (server, client):
        made = read({**event, name: value})
        assert type(made) in {Charge, Sum, Payment, Sealed, Pin, Head, Refusal, Kept, Odd}
        assert {field.name for field in fields(made)} >= {"line"}

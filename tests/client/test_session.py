"""A client in a session of secure aggregation: when it pays, what it keeps, and what makes it leave for good."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

import client.host
from client.gate import BEHIND
from client.host import answer, answer_all
from client.session import Seat, seat_bytes, seat_of
from shared.errors import ProtocolError
from shared.privacy.ledger import read_ledger
from shared.proofs import parse_receipt
from shared.protocol import declined_record, is_declined, parse_sealed, vector_length
from shared.secagg.client import AGREED, DEALT, JOINED, UPLOADED, registration
from shared.sessions import parts

STEPS = ("join", "deal", "upload", "agree", "reveal")
PHASES = {"join": None, "deal": JOINED, "upload": DEALT, "agree": UPLOADED, "reveal": AGREED}
PEOPLE = 6  # the smallest cohort of the plan is 4, so a quorum is 4


def private_key(name):
    return Ed25519PrivateKey.from_private_bytes(str(name).encode().rjust(32, b"k"))


def public_key(name):
    return private_key(name).public_key().public_bytes_raw()


@pytest.fixture
def masking(host, history):
    """A host of six clients that answers under masks."""

    def make(histories=None, **changes):
        people = [history(seed) for seed in range(PEOPLE)] if histories is None else histories
        return host(people, **{"masked": True, "identity": private_key, **changes})

    return make


@pytest.fixture
def session(table, task):
    """``session(host, kind, **changes of the task)``: all of a host's clients at one table."""

    def make(one, kind="measurement", *, how=None, **changes):
        how = {"clients": tuple(one.stores), **(how or {})}
        return table(lambda _step, messages: answer_all(one, messages), task(kind, **changes), **how)

    return make


def events(one, kind):
    return [line.event for line in read_ledger(one.path) if line.event["type"] == kind]


def clauses(one):
    return [event["clause"] for event in events(one, "decline")]


def charged(one):
    return [event["client"] for event in events(one, "intent")]


def with_part(record, name, value):
    return RecordDict({**record, name: value})


# --- the sum


@pytest.mark.parametrize("trust", ["distributed", "central"])
@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
def test_the_masks_cancel_to_the_sum_of_what_was_sealed(kind, trust, masking, session, plan, message):
    one, ideal = masking(), masking(name="ideal", masked=False)
    at = session(one, kind, plan=plan(trust=trust))
    at.play()
    plain = answer_all(ideal, dict.fromkeys(ideal.stores, message(at.task)))
    length = vector_length(at.task)
    assert np.array_equal(at.total(), np.sum([parse_sealed(a, length) for a in plain.values()], axis=0, dtype=np.int64))
    assert [e["sealed"] for e in events(one, "result")] == [e["sealed"] for e in events(ideal, "result")]
    assert one.seats == {}


def test_a_masked_vector_is_not_the_sealed_one_nor_another_clients(masking, session, message):
    one, ideal = masking(), masking(name="ideal", masked=False)
    at = session(one)
    at.play("upload")
    plain = answer_all(ideal, dict.fromkeys(ideal.stores, message(at.task)))
    for name, words in at.masked().items():
        sealed = parse_sealed(plain[name], len(words))
        assert np.mean(words.astype(np.int32) == sealed) < 0.1
        assert words.min() < 2**30 < 3 * 2**30 < words.max()  # spread over all of the modulus, not near zero


@pytest.mark.parametrize("step", STEPS[1:])
def test_whoever_is_lost_at_a_step_the_others_sum_is_theirs(step, masking, session, message):
    one, ideal = masking(), masking(name="ideal", masked=False)
    at = session(one)
    at.play(leave={step: ("2", "5")})
    survivors = [name for name in one.stores if step in ("agree", "reveal") or name not in {"2", "5"}]
    plain = answer_all(ideal, dict.fromkeys(survivors, message(at.task)))
    sealed = [parse_sealed(a, vector_length(at.task)) for a in plain.values()]
    assert np.array_equal(at.total(), np.sum(sealed, axis=0, dtype=np.int64))
    # Who was lost keeps its seat, and nobody collects them: one a client, until the next invitation or restart.
    assert set(one.seats) == {"2", "5"}


# --- what is paid, and when


def test_nothing_is_charged_before_the_upload_and_once_with_it(masking, session):
    one = masking()
    at = session(one)
    at.play("deal")
    assert one.ledger.count == 1
    at.play()
    assert sorted(charged(one)) == sorted(one.stores)
    assert [line.event["type"] for line in read_ledger(one.path)][-1] == "head"


@pytest.mark.parametrize("trust", ["distributed", "central"])
@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
def test_a_task_outside_a_session_is_declined_and_costs_nothing(kind, trust, masking, task, plan, message):
    one = masking()
    answers = answer_all(one, dict.fromkeys(one.stores, message(task(kind, plan=plan(trust=trust)))))
    assert all(map(is_declined, answers.values()))
    assert charged(one) == []
    assert set(clauses(one)) == {
        "ProtocolError: secagg: a task of a plan that needs secure aggregation, outside of any session"
    }


def test_a_vector_that_is_private_by_itself_goes_plain_whatever_the_host_is_set_to(masking, task, plan, message):
    one, chosen = masking(), task(plan=plan(trust="local"))
    answers = answer_all(one, dict.fromkeys(one.stores, message(chosen)))
    assert all(parse_sealed(each, vector_length(chosen)) is not None for each in answers.values())
    assert one.seats == {}


def test_a_seat_does_not_help_a_task_that_was_not_invited(masking, session, task, message):
    one = masking()
    at = session(one)
    at.play("deal")
    good = at.messages("upload")
    uninvited = message(task(attempt=2))
    other = {name: RecordDict({**record, **uninvited}) for name, record in good.items()}
    assert all(map(is_declined, answer_all(one, other).values()))
    assert "another task than the session is for" in clauses(one)[0]
    assert all(map(is_declined, answer_all(one, good).values()))  # the seat is gone with the first fault
    assert charged(one) == []


def test_a_second_upload_is_declined_and_nothing_is_masked_again(masking, session, monkeypatch):
    one = masking()
    at = session(one)
    at.play("upload")
    masked = []
    monkeypatch.setattr("client.session.client.mask", lambda *args: masked.append(args))
    for _ in range(2):
        assert all(map(is_declined, answer_all(one, at.sent["upload"]).values()))
    assert masked == []
    assert len(charged(one)) == len(events(one, "result")) == PEOPLE
    assert one.seats == {}


def test_a_session_for_a_task_that_was_paid_already_is_declined_at_the_door(masking, session):
    one = masking()
    session(one).play()
    answers = session(one).play("join")  # a new session, were it joined, would mask the same vector again
    assert all(map(is_declined, answers.values()))
    assert clauses(one) == ["replay: measurement of round 1, attempt 1, was paid"] * PEOPLE
    again = session(one, attempt=2)
    again.play()
    assert len(charged(one)) == 2 * PEOPLE


def test_the_gate_sees_the_invitation_first_and_again_the_task(masking, session, consent, plan):
    careful = {str(n): consent(smallest_cohort=5 if n == 1 else 1) for n in range(1, PEOPLE + 1)}
    one = masking(consents=careful)
    at = session(one)
    answers = at.play("join")
    assert [name for name, each in answers.items() if is_declined(each)] == ["1"]
    assert clauses(one) == ["consent.smallest_cohort: 4 clients, at least 5 are asked for"]
    at.play("deal")
    one.gate.consents = careful | {"2": consent(enabled=False)}
    answers = at.play("upload")
    assert [name for name, each in answers.items() if is_declined(each)] == ["2"]
    assert "2" not in charged(one)
    assert "2" not in one.seats
    at.play()
    assert at.total() is not None


@pytest.mark.parametrize(("before", "step"), [("join", "deal"), ("upload", "agree"), ("agree", "reveal")])
def test_who_switches_off_in_the_middle_of_a_session_says_nothing_more(before, step, masking, session, consent):
    one = masking()
    at = session(one)
    at.play(before)
    one.consents = {**one.consents, "2": consent(enabled=False)}
    answers = at.play(step)
    assert [name for name, each in answers.items() if is_declined(each)] == ["2"]
    assert "2" not in one.seats
    assert clauses(one) == ["DeclinedError: consent.enabled: this client takes part in nothing"]
    at.play()
    assert at.total() is not None


def test_a_task_under_another_plan_than_the_invitations_is_declined_before_it_is_paid(masking, session, task, plan):
    """Noise sized for a large cohort, in a session that is content with a small one, would be too little."""
    one = masking()
    small = task("measurement", run="other", plan=plan(smallest_cohort=2))
    at = session(one, how={"announced": small}, plan=plan(smallest_cohort=6))
    at.play("deal")
    assert all(map(is_declined, at.play("upload").values()))
    assert set(clauses(one)) == {"ProtocolError: secagg: a task whose plan is not the one that the invitation named"}
    assert charged(one) == []


@pytest.mark.parametrize("collusion", [0.5, 0.75])
def test_colluders_are_part_of_what_was_agreed_to(collusion, masking, session, task, plan):
    one = masking()
    announced = task("measurement", run="other", plan=plan(collusion=0.3))
    at = session(one, how={"announced": announced}, plan=plan(collusion=collusion))
    at.play("deal")
    assert all(map(is_declined, at.play("upload").values()))
    assert charged(one) == []


def test_an_invitation_to_a_ledger_that_is_behind_its_receipt_is_declined(masking, session, tmp_path):
    one = masking()
    at = session(one)
    at.play()
    last = {name: parse_receipt(each) for name, each in at.answered["upload"].items()}
    fresh = masking(name="restored")
    answers = session(fresh, attempt=2, how={"receipts": last}).play("join")
    assert all(map(is_declined, answers.values()))
    assert clauses(fresh) == [BEHIND] * PEOPLE
    following = session(one, attempt=2, how={"receipts": last})
    following.play()
    assert len(charged(one)) == 2 * PEOPLE


# --- the order of steps


@pytest.mark.parametrize("wrong", STEPS[1:])
@pytest.mark.parametrize("due", STEPS[1:])
def test_a_step_out_of_turn_ends_the_session_for_that_client(due, wrong, masking, session):
    if due == wrong:
        return
    donor = session(masking(name="donor"))
    donor.play()
    one = masking()
    at = session(one)
    at.play(STEPS[STEPS.index(due) - 1])
    assert one.seats["1"].member.phase == PHASES[due]
    paid = charged(one)
    assert donor.name == at.name  # the same invitation: every message of the other session could be of this one
    assert is_declined(answer(one, "1", donor.sent[wrong]["1"]))
    assert "1" not in one.seats
    right = at.messages(due)
    assert is_declined(answer(one, "1", right["1"]))
    assert charged(one) == paid
    rest = answer_all(one, {name: record for name, record in right.items() if name != "1"})
    assert not any(map(is_declined, rest.values()))  # nobody else's seat is touched


FAULTS = {
    "another session": (STEPS[1:], lambda r: with_part(r, "session", ConfigRecord({"name": bytes(32)}))),
    "no session": (STEPS[1:], lambda r: RecordDict({n: r[n] for n in r if n != "session"})),
    "a session in text": (STEPS[1:], lambda r: with_part(r, "session", ConfigRecord({"name": "x" * 32}))),
    "an empty roster": (("deal",), lambda r: with_part(r, "roster", ConfigRecord({"raw": b""}))),
    "a roster cut short": (("deal",), lambda r: with_part(r, "roster", ConfigRecord({"raw": r["roster"]["raw"][:-1]}))),
    "a roster of others": (
        ("deal",),
        lambda r: with_part(r, "roster", ConfigRecord({"raw": r["roster"]["raw"][224:]})),
    ),
    "a roster twice": (("deal",), lambda r: with_part(r, "roster", ConfigRecord({"raw": 2 * r["roster"]["raw"]}))),
    "no signatures": (("reveal",), lambda r: with_part(r, "signatures", ConfigRecord({"raw": b"\0"}))),
    "no survivors": (("agree",), lambda r: with_part(r, "survivors", ConfigRecord({"raw": b"\0"}))),
    "survivors without it": (("agree",), lambda r: with_part(r, "survivors", ConfigRecord({"raw": b"\x3e"}))),
    "a list of bytes": (("agree",), lambda r: with_part(r, "survivors", ConfigRecord({"raw": [b"\x3f"]}))),
    "more beside it": (
        ("agree",),
        lambda r: with_part(r, "survivors", ConfigRecord({"raw": b"\x3f", "more": 1})),
    ),
}


@pytest.mark.parametrize(("how", "step"), [(how, step) for how, (steps, _) in FAULTS.items() for step in steps])
def test_the_first_fault_costs_the_seat_and_nothing_else(how, step, masking, session):
    one = masking()
    at = session(one)
    at.play(STEPS[STEPS.index(step) - 1])
    paid, good = charged(one), at.messages(step)["1"]
    assert is_declined(answer(one, "1", FAULTS[how][1](good)))
    assert "1" not in one.seats
    assert is_declined(answer(one, "1", good))
    assert charged(one) == paid


@pytest.mark.parametrize("part", ["graph", "boxes"])
def test_a_fault_that_only_the_mask_finds_costs_the_payment_too_and_nothing_leaves(part, masking, session):
    one = masking()
    at = session(one)
    at.play("deal")
    good = at.messages("upload")
    bad = {name: with_part(record, part, ConfigRecord({"raw": b"x"})) for name, record in good.items()}
    assert all(map(is_declined, answer_all(one, bad).values()))
    assert len(charged(one)) == len(events(one, "result")) == PEOPLE  # written down as it was, and not sent
    assert one.seats == {}
    assert all(map(is_declined, answer_all(one, good).values()))
    assert len(charged(one)) == PEOPLE


@pytest.mark.parametrize("where", ["client.host.parse_task", "client.host.release", "client.host.contributions"])
def test_an_error_of_this_sides_own_costs_the_seat(where, masking, session, monkeypatch):
    def broken(*_args, **_more):
        raise MemoryError("ann bought a wheelchair")

    one = masking()
    at = session(one)
    at.play("deal")
    good = at.messages("upload")
    with monkeypatch.context() as patch:
        patch.setattr(where, broken)
        answers = answer_all(one, good)
    assert {tuple(each) for each in answers.values()} == {("status",)}
    assert one.seats == {}
    assert all(map(is_declined, answer_all(one, good).values()))


def test_shares_are_revealed_once(masking, session):
    one = masking()
    at = session(one)
    answers = at.play()
    assert not any(map(is_declined, answers.values()))
    assert all(map(is_declined, answer_all(one, at.sent["reveal"]).values()))
    assert all("does not sit in" in clause for clause in clauses(one))


def test_after_a_fault_in_the_last_step_nothing_is_revealed_at_all(masking, session, wire):
    one = masking()
    at = session(one)
    at.play("agree")
    good = at.messages("reveal")
    raw = bytearray(good["1"]["signatures"]["raw"])
    raw[-1] ^= 1
    assert is_declined(answer(one, "1", with_part(good["1"], "signatures", ConfigRecord({"raw": bytes(raw)}))))
    assert is_declined(answer(one, "1", good["1"]))


def test_one_set_of_survivors_is_signed_and_no_second(masking, session):
    one = masking()
    at = session(one)
    at.play("agree")
    assert is_declined(answer(one, "1", at.sent["agree"]["1"]))
    other = RecordDict(parts(at.name, survivors=b"\x1f"))
    assert is_declined(answer(one, "2", other))
    assert set(one.seats) == {"3", "4", "5", "6"}


# --- seats


def test_a_new_invitation_takes_the_place_of_the_old(masking, session):
    one = masking()
    first = session(one)
    first.play("deal")
    second = session(one, attempt=2)
    second.play("join")
    assert {seat.member.session for seat in one.seats.values()} == {second.name}
    assert {seat.member.phase for seat in one.seats.values()} == {JOINED}
    second.play()
    assert second.total() is not None
    assert all(map(is_declined, answer_all(one, first.messages("upload")).values()))
    assert {event["attempt"] for event in events(one, "intent")} == {2}


def test_an_invitation_that_is_refused_costs_the_old_seat_as_well(masking, session):
    one = masking()
    first = session(one)
    first.play("deal")
    assert all(map(is_declined, session(one, catalogue="0" * 64).play("join").values()))
    assert one.seats == {}
    assert all(map(is_declined, answer_all(one, first.messages("upload")).values()))


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_client_that_starts_again_has_dropped_out(step, masking, session):
    one = masking()
    at = session(one)
    at.play(STEPS[STEPS.index(step) - 1])
    paid, messages = charged(one), at.messages(step)
    one.close()
    again = masking()
    assert again.seats == {}
    assert all(map(is_declined, answer_all(again, messages).values()))
    assert charged(again) == paid


@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_seat_is_kept_whole_in_every_phase(step, masking, session, wire):
    one, straight = masking(), session(masking(name="straight"))
    straight.play()
    at = session(one)
    at.play(step)
    for name, seat in one.seats.items():
        one.seats[name] = seat_of(seat_bytes(seat))
        assert one.seats[name] == seat
    at.play()
    assert all(
        wire.pack(each) == wire.pack(straight.answered[STEPS[-1]][name])
        for name, each in at.answered[STEPS[-1]].items()
    )


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
def test_nothing_of_a_history_is_in_a_seat(kind, masking, session, history, wire):
    """The same chance, other behaviour: not a bit of any seat differs, in no phase."""
    seats = []
    for name, seed in (("one", 1), ("two", 100)):
        one = masking([history(seed + n, *((0, 0) if n == 3 else ())) for n in range(PEOPLE)], name=name)
        at = session(one, kind)
        kept = []
        for step in STEPS[:-1]:
            at.play(step)
            kept += [seat_bytes(seat) for seat in one.seats.values()]
        seats.append(kept)
        answers = [wire.pack(each) for each in at.answered["upload"].values()]
    assert len(seats[0]) == 4 * PEOPLE
    assert seats[0] == seats[1]
    assert len(set(answers)) == PEOPLE


@pytest.mark.parametrize(
    "damage",
    [{"phase": "wild"}, {"phase": 7}, {"picks": "x"}, {"picks": [0]}, {"roster": "00"}, {"more": 1}, {"smallest": -5}],
    ids=str,
)
def test_a_seat_that_was_damaged_is_of_no_use_and_tells_nothing(damage, masking, session, wire):
    one = masking()
    at = session(one)
    at.play("deal")
    good = at.messages("upload")["1"]
    said = json.loads(seat_bytes(one.seats.pop("1")))
    with contextlib.suppress(ProtocolError):  # else the session's own checks must find it
        one.seats["1"] = seat_of(json.dumps({**said, "member": {**said["member"], **damage}}).encode())
    assert wire.pack(answer(one, "1", good)) == wire.pack(declined_record())


# --- who it sits with


def test_registrations_are_checked_where_consent_names_a_registrar(masking, session, consent):
    registrar = private_key("registrar")
    everybody = [str(n) for n in range(1, PEOPLE + 1)]
    signed = {name: registration(registrar, public_key(name)) for name in everybody}
    strict = dict.fromkeys(everybody, consent(roster_key=public_key("registrar").hex()))
    all_known = masking(name="known", consents=strict, registrations=signed)
    at = session(all_known)
    at.play()
    assert at.total() is not None

    one_stranger = {name: word for name, word in signed.items() if name != "4"}
    relaxed = strict | {"5": consent(), "6": consent()}
    mixed = masking(name="mixed", consents=relaxed, registrations=one_stranger)
    answers = session(mixed).play("deal")
    assert [name for name, each in answers.items() if not is_declined(each)] == ["5", "6"]
    assert set(clauses(mixed)) == {"ProtocolError: secagg: member 3 is not registered by the key that consent names"}
    assert set(mixed.seats) == {"5", "6"}
    assert charged(mixed) == []


@pytest.mark.parametrize("forged", ["another registrar", "another client", "zeros"])
def test_a_registration_is_of_one_registrar_and_one_key(forged, masking, session, consent):
    registrar, stranger = private_key("registrar"), private_key("stranger")
    words = {str(n): registration(registrar, public_key(n)) for n in range(1, PEOPLE + 1)}
    words["2"] = {
        "another registrar": registration(stranger, public_key("2")),
        "another client": words["1"],
        "zeros": bytes(64),
    }[forged]
    strict = dict.fromkeys(words, consent(roster_key=public_key("registrar").hex()))
    one = masking(consents=strict, registrations=words)
    assert all(map(is_declined, session(one).play("deal").values()))


def test_who_is_not_registered_with_the_server_is_left_out_and_the_others_go_on(masking, session):
    one = masking()
    known = {public_key(n) for n in range(1, PEOPLE)}
    at = session(one, how={"registered": known})
    at.play()
    assert sorted(at.sent["deal"]) == ["1", "2", "3", "4", "5"]
    assert "6" not in charged(one)


# --- what an observer sees


def test_a_refusal_is_the_same_bytes_in_every_step_and_for_every_reason(masking, session, wire, task, message):
    one = masking()
    refusals = [
        answer(one, "1", record)
        for record in (message(task()), RecordDict(), *(RecordDict(parts(bytes(32), **{n: b""})) for n in PARTS))
    ]
    for step in STEPS:
        at = session(one, attempt=2 + STEPS.index(step), round=1 + STEPS.index(step))
        if step != "join":
            at.play(STEPS[STEPS.index(step) - 1])
        for name, record in at.messages(step).items():
            broken = RecordDict({**record, "session": ConfigRecord({"name": b""}), "server": ConfigRecord({})})
            refusals.append(answer(one, name, broken))
    assert len(refusals) > 30
    assert {wire.pack(each) for each in refusals} == {wire.pack(declined_record())}


PARTS = ("invitation", "roster", "graph", "boxes", "survivors", "signatures")


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_messages_and_sizes_are_the_same_for_an_empty_and_a_full_history(
    kind, trust, masking, session, history, plan, wire
):
    """The first client's history is empty, full, held out altogether, or one event: no size and no order differs."""
    seen = []
    for name, first in {"none": (0, 0), "full": (48, 5), "held out": (6, 6), "one": (1, 0)}.items():
        people = [history(1, *first), *(history(seed) for seed in range(2, PEOPLE + 1))]
        at = session(masking(people, name=name), kind, plan=plan(trust=trust))
        at.play()
        seen.append(
            [
                (step, who, len(wire.pack(record)))
                for step in STEPS
                for each in (at.sent, at.answered)
                for who, record in each[step].items()
            ]
        )
    assert len(seen[0]) == 2 * len(STEPS) * PEOPLE
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_within_a_session_an_empty_history_answers_as_long_as_a_full_one(masking, session, history, wire):
    """Before the last step; there, how many picked a client shows, and never its history."""
    people = [history(1, 0, 0), history(2, 48, 5), history(3, 1, 1), history(4, 1, 0), history(5), history(6)]
    at = session(masking(people))
    at.play()
    for step in ("join", "deal", "upload", "agree"):
        assert len({len(wire.pack(each)) for each in at.answered[step].values()}) == 1, step


# --- batches


def test_a_batch_and_one_by_one_give_the_same_bytes_but_for_the_ledger(masking, session, wire):
    together, alone = session(masking(name="together")), None
    one = masking(name="alone")
    together.play()
    alone = session(one)
    alone.ask = lambda _step, messages: {name: answer(one, name, record) for name, record in messages.items()}
    alone.play()
    for step in STEPS:
        for name, each in together.answered[step].items():
            other = alone.answered[step][name]
            assert {n: wire.pack(RecordDict({n: each[n]})) for n in each if n != "receipt"} == {
                n: wire.pack(RecordDict({n: other[n]})) for n in other if n != "receipt"
            }


def test_one_client_of_a_batch_without_a_seat_stops_nobody(masking, session):
    one = masking()
    at = session(one)
    at.play("deal")
    del one.seats["3"]
    answers = at.play("upload")
    assert [name for name, each in answers.items() if is_declined(each)] == ["3"]
    assert "3" not in charged(one)
    at.play()
    assert at.total() is not None


def test_seats_do_not_pile_up(masking, session, plan):
    one = masking()
    many = plan(rounds=12, update_participations=12, measurement_participations=12)
    for number in range(1, 6):
        session(one, plan=many, round=number).play("agree" if number % 2 else "reveal")
        assert len(one.seats) == (PEOPLE if number % 2 else 0)
    assert all(isinstance(seat, Seat) for seat in one.seats.values())


def test_a_step_for_a_client_that_is_not_here_is_declined(masking, session):
    one = masking()
    at = session(one)
    record = at.messages("join")["1"]
    assert is_declined(answer(one, "99", record))
    assert "99" not in one.seats


def test_without_consent_nobody_sits_down(masking, session):
    one = masking(consents={}, unconsented="no consent.toml")
    assert all(map(is_declined, session(one).play("join").values()))
    assert set(clauses(one)) == {"no consent.toml"}


def test_a_seat_from_before_consent_was_withdrawn_is_given_up(masking, session):
    one = masking()
    at = session(one)
    at.play("join")
    one.consents = {}
    assert all(map(is_declined, at.play("deal").values()))
    assert one.seats == {}


def test_the_secrets_of_a_session_are_drawn_for_it_alone(masking, session):
    one = masking()
    secrets = set()
    for attempt in (1, 2, 3):
        session(one, attempt=attempt).play("join")
        for seat in one.seats.values():
            secrets |= {seat.member.box_private, seat.member.mask_private, seat.member.self_seed}
    assert len(secrets) == 3 * 3 * PEOPLE


def test_a_seat_in_another_phase_cannot_be_made_up_from_the_invitation(masking, session):
    one = masking()
    at = session(one)
    at.play("join")
    early = replace(one.seats["1"], member=replace(one.seats["1"].member, phase=DEALT))
    at.play("deal")
    one.seats["1"] = early
    assert is_declined(answer(one, "1", at.messages("upload")["1"]))
    assert client.host.answer is answer


@pytest.mark.parametrize("used_up", [False, True])
def test_a_task_without_a_mask_ends_the_session(used_up, masking, session, task, plan, message):
    """Whether it is answered or declined."""
    one = masking()
    plain = task("statistics", plan=plan(trust="local"), run="another")
    if used_up:
        answer_all(one, dict.fromkeys(one.stores, message(plain)))
        plain = replace(plain, header=replace(plain.header, attempt=2))
    session(one).play("deal")
    assert set(one.seats) == set(one.stores)
    answers = answer_all(one, dict.fromkeys(one.stores, message(plain)))
    assert {is_declined(each) for each in answers.values()} == {used_up}
    assert one.seats == {}

"""Messages through Flower's ClientApp, with the client's own folder; a process of its own for each of them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from datetime import date, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

import client.app
from client.app import app
from client.consent import write_consent
from client.folder import REGISTRATION, SEAT, client_folder, open_host
from client.gate import BEHIND
from client.session import seat_of
from client.store import ClientStore, save_store
from shared.catalogue import save_catalogue
from shared.errors import FedrecallError, LedgerError
from shared.keys import own_key
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.ledger import read_ledger, verify_receipt
from shared.proofs import parse_receipt
from shared.protocol import MESSAGE_TYPES, declined_record, parse_sealed, release_of, vector_length
from shared.secagg.client import AGREED, DEALT, JOINED, UPLOADED, registration
from shared.sessions import STEP_TYPES, parts

STEPS = ("join", "deal", "upload", "agree", "reveal")
PHASES = {"join": JOINED, "deal": DEALT, "upload": UPLOADED, "agree": AGREED}


@pytest.fixture
def masked_plan(plan):
    """Plans of a session of three, or other."""
    small = {"trust": "distributed", "population": 4, "users": 4, "smallest_cohort": 3}
    return lambda **changes: plan(**(small | changes))


@pytest.fixture
def plan(plan):
    """Plans whose vectors are private by themselves, so that one message is all; sessions are further down."""
    return lambda **changes: plan(**{"trust": "local", **changes})


@pytest.fixture
def home(tmp_path, catalogue, history, consent, monkeypatch):
    save_catalogue(catalogue, tmp_path / "catalogue.npz")
    folder = client_folder(tmp_path, 7)
    folder.mkdir(parents=True)
    save_store(ClientStore("c7", ("ann",), (history(1),)), folder / "store.npz")
    write_consent(consent(), folder / "consent.toml")
    monkeypatch.setenv("FEDRECALL_HOME", str(tmp_path))
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower's runtime sets it before an app runs
    return tmp_path


def sent(record, kind="update", partition=7):
    message = Message(record, dst_node_id=1, message_type=MESSAGE_TYPES[kind])
    message.metadata.__dict__["_message_id"] = "m1"
    context = Context(run_id=1, node_id=1, node_config={"partition-id": partition}, state=RecordDict(), run_config={})
    return app(message, context)


def only_declined(reply):
    return (
        not reply.has_error()
        and list(reply.content) == ["status"]
        and dict(reply.content["status"]) == {"code": "declined"}
    )


def events(home, kind):
    return [e.event for e in read_ledger(client_folder(home, 7) / "ledger.jsonl") if e.event["type"] == kind]


def declines(home):
    return [event["clause"] for event in events(home, "decline")]


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
def test_a_task_is_answered_with_a_sealed_vector_and_noise_of_the_system(kind, home, task, message):
    chosen = task(kind)
    reply = sent(message(chosen), kind)
    assert list(reply.content) == ["sealed", "receipt"]
    assert parse_sealed(reply.content, vector_length(chosen)).any()
    assert [(event["client"], event["noise_source"]) for event in events(home, "intent")] == [("c7", "os")]
    assert verify_receipt(parse_receipt(reply.content))


def attempt(task, number, kind="measurement", **changes):
    return task(kind, attempt=number, **changes)


def test_the_budget_is_counted_across_messages(home, task, message):
    replies = [sent(message(attempt(task, n)), "measurement") for n in (1, 2, 3)]
    assert [only_declined(r) for r in replies] == [False, False, True]


def test_no_two_answers_share_their_noise(home, task, message):
    one, two = (parse_sealed(sent(message(attempt(task, n)), "measurement").content, 57) for n in (1, 2))
    assert not np.array_equal(one, two)


def test_an_answer_and_a_refusal_are_as_long_whatever_the_history(home, task, message, history, wire):
    """Empty, full, and held out altogether: the bytes on the wire are as many."""
    sizes = []
    for number, one in enumerate((history(1, 0, 0), history(2, 48, 10), history(3, 1, 1)), 1):
        folder = client_folder(home, 7)
        save_store(ClientStore("c7", ("ann",), (one,)), folder / "store.npz")
        (folder / "ledger.jsonl").unlink(missing_ok=True)
        replies = [sent(message(task(kind)), kind) for kind in MESSAGE_TYPES]
        replies.append(sent(message(task(round=number + 1, catalogue="0" * 64))))
        assert [only_declined(reply) for reply in replies] == [False] * len(MESSAGE_TYPES) + [True]
        sizes.append([len(wire.pack(reply.content)) for reply in replies])
    assert sizes[0] == sizes[1] == sizes[2]


# --- consent


def disagreed(home, change):
    path = client_folder(home, 7) / "consent.toml"
    changes = {change.split(" = ")[0]: change.split(" = ")[1]}
    lines = [line for line in path.read_text().splitlines() if line.split(" = ")[0] not in changes]
    path.write_text("\n".join([*lines, change]))


CLAUSES = [
    "enabled = false",
    "epsilon_per_round = 0.01",
    "epsilon_per_period = 0.01",
    "epsilon_lifetime = 0.01",
    "smallest_noise = 99",
    "smallest_own_noise = 99",
    "largest_clip = 0.01",
    'trust = ["distributed"]',
    'servers = ["' + "a" * 64 + '"]',
    "features = []",
]


def test_a_refusal_is_the_same_bytes_for_every_clause_and_the_ledger_names_it(home, task, message, wire):
    said = (client_folder(home, 7) / "consent.toml").read_text()
    bytes_of = set()
    for change in CLAUSES:
        disagreed(home, change)
        reply = sent(message(task()))
        assert only_declined(reply), change
        bytes_of.add(wire.pack(reply.content))
        assert declines(home)[-1].startswith(f"consent.{change.split(' = ')[0]}: ")
        (client_folder(home, 7) / "consent.toml").write_text(said)
    others = sent(RecordDict()), sent(message(task(catalogue="0" * 64)))
    assert bytes_of | {wire.pack(reply.content) for reply in others} == {wire.pack(declined_record())}
    assert not only_declined(sent(message(task())))


def test_without_a_consent_or_with_one_that_cannot_be_understood_everything_is_declined(home, task, message):
    path = client_folder(home, 7) / "consent.toml"
    path.unlink()
    assert only_declined(sent(message(task())))
    path.write_text("epsilon = 3")
    assert only_declined(sent(message(task())))
    assert declines(home) == ["no consent.toml", f"{path}: unknown key epsilon; did you mean epsilon_lifetime?"]


def test_who_withdraws_consent_is_asked_in_vain_from_the_next_message_on(home, task, message):
    assert not only_declined(sent(message(attempt(task, 1)), "measurement"))
    disagreed(home, "enabled = false")
    assert only_declined(sent(message(attempt(task, 2)), "measurement"))
    disagreed(home, "enabled = true")
    assert not only_declined(sent(message(attempt(task, 2)), "measurement"))


def test_what_may_not_be_used_changes_the_answer_and_not_its_form(home, task, message, plan):
    bare = plan(epsilon=None)
    plain = sent(message(attempt(task, 1, "statistics", plan=bare, run="a")), "statistics")
    disagreed(home, 'behaviour = ["view"]')
    less = sent(message(attempt(task, 1, "statistics", plan=bare, run="b")), "statistics")
    disagreed(home, "behaviour = []")
    none = sent(message(attempt(task, 1, "statistics", plan=bare, run="c")), "statistics")
    counts = [np.count_nonzero(parse_sealed(reply.content, 48 + 16)) for reply in (plain, less, none)]
    assert counts[0] > counts[1] > counts[2] == 0
    assert declines(home) == []


# --- one ledger for life


def test_a_second_run_with_another_plan_is_paid_from_the_same_lifetime(home, task, message, plan):
    first, second = plan(), plan(epsilon=4.0)
    spend = first.update.rho + second.update.rho
    disagreed(home, f"epsilon_lifetime = {epsilon_by_zcdp(spend, 1e-3) * (1 + 1e-9)}")
    assert not only_declined(sent(message(task(plan=first))))
    assert not only_declined(sent(message(task(plan=second, run="next"))))
    assert only_declined(sent(message(task(plan=second, run="next", round=2))))
    assert declines(home)[0].startswith("consent.epsilon_lifetime: ")
    assert [e["run"] for e in events(home, "plan")] == ["run", "next"]


def test_a_period_renews_by_this_sides_clock(home, task, message, plan, monkeypatch):
    disagreed(home, f"epsilon_per_period = {epsilon_by_zcdp(plan().update.rho, 1e-3) * (1 + 1e-9)}")
    disagreed(home, "period_days = 30")
    answered = []
    for number, day in enumerate((0, 29, 30), 1):
        monkeypatch.setattr("client.folder.system_day", lambda day=day: date(2026, 1, 1) + timedelta(days=day))
        answered.append(not only_declined(sent(message(task(round=number)))))
    assert answered == [True, False, True]
    assert [e["day"] for e in events(home, "intent")] == ["2026-01-01", "2026-01-31"]


def test_a_restored_backup_is_refused_by_the_servers_receipt(home, task, message):
    folder, backup = client_folder(home, 7), home / "backup.jsonl"
    one = parse_receipt(sent(message(task(round=1))).content)
    shutil.copyfile(folder / "ledger.jsonl", backup)
    two = parse_receipt(sent(message(task(round=2), last=one)).content)
    assert two.seq > one.seq
    shutil.copyfile(backup, folder / "ledger.jsonl")
    assert only_declined(sent(message(task(round=3), last=two)))
    assert declines(home) == [BEHIND]
    # It stays refused when the ledger has grown again: other lines stand where the receipt was given.
    for number in range(4, 9):
        assert only_declined(sent(message(task(round=number), last=two)))
    assert len(events(home, "intent")) == 1


def test_a_ledger_that_is_gone_is_behind_too(home, task, message):
    one = parse_receipt(sent(message(task(round=1))).content)
    (client_folder(home, 7) / "ledger.jsonl").unlink()
    assert only_declined(sent(message(task(round=2), last=one)))
    assert declines(home) == [BEHIND]


def test_two_processes_on_one_ledger_are_refused(home, task, message):
    sent(message(task(round=1)))
    context = multiprocessing.get_context("fork")
    ready, done, answered = context.Event(), context.Event(), context.Queue()

    def hold():
        host = open_host(home, 7)
        ready.set()
        done.wait(20)
        host.close()

    other = context.Process(target=hold)
    other.start()
    assert ready.wait(20)
    answered = only_declined(sent(message(task(round=2))))
    done.set()
    other.join()
    assert answered
    assert len(events(home, "intent")) == 1
    assert not only_declined(sent(message(task(round=2))))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda raw: raw.replace(b'"round":1', b'"round":2', 1), ":3: the line was edited after it was written"),
        (lambda raw: b"".join(raw.splitlines(keepends=True)[1:]), ":1: sequence number 2, expected 1"),
        (lambda raw: raw.replace(b'"rho"', b'"tho"', 1), ":3: the line was edited"),
    ],
    ids=["edited", "dropped", "renamed"],
)
def test_a_ledger_that_was_touched_declines_and_names_its_line(damage, sentence, home, task, message):
    sent(message(task(round=1)))
    path = client_folder(home, 7) / "ledger.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    assert only_declined(sent(message(task(round=2))))
    with pytest.raises(LedgerError, match=sentence):
        open_host(home, 7)


def test_a_ledger_cut_off_in_its_last_line_goes_on_and_one_cut_off_before_a_receipt_does_not(home, task, message):
    one = parse_receipt(sent(message(task(round=1))).content)
    path = client_folder(home, 7) / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":{"attempt"')  # torn, so nothing was sent on its word
    two = sent(message(task(round=2), last=one))
    assert not only_declined(two)
    path.write_bytes(path.read_bytes()[:-7])  # its head is torn, and the server has it
    assert only_declined(sent(message(task(round=3), last=parse_receipt(two.content))))


BROKEN = {
    "no folder": lambda home: shutil.rmtree(home / "clients"),
    "no catalogue": lambda home: (home / "catalogue.npz").unlink(),
    "a broken catalogue": lambda home: (home / "catalogue.npz").write_bytes(b"PK"),
    "a broken store": lambda home: (client_folder(home, 7) / "store.npz").write_bytes(b"secret purchases"),
    "a key of another kind": lambda home: (client_folder(home, 7) / "ledger-key.pem").write_text("-----BEGIN"),
    "a broken ledger": lambda home: (client_folder(home, 7) / "ledger.jsonl").write_text('{"seq": 1}\n'),
    "a ledger that pins nothing": lambda home: (client_folder(home, 7) / "ledger.jsonl").write_text("null\n"),
    "an empty ledger": lambda home: (client_folder(home, 7) / "ledger.jsonl").write_text(""),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_answers_declined_and_nothing_else(how, home, task, message):
    BROKEN[how](home)
    assert only_declined(sent(message(task())))


@pytest.mark.parametrize("partition", ["7; rm -rf", "../../etc", None, -1, 8])
def test_a_partition_that_is_not_here_answers_declined(partition, home, task, message):
    assert only_declined(sent(message(task()), partition=partition))


def test_a_task_that_is_none_answers_declined(home):
    assert only_declined(sent(RecordDict({"task": ConfigRecord({"json": json.dumps({"code": "1/0"})})})))


def test_a_locked_ledger_answers_declined(home, task, message):
    sent(message(task("statistics")), "statistics")
    other = open_host(home, 7)
    try:
        assert only_declined(sent(message(task())))
        with pytest.raises(FedrecallError, match="in use"):
            open_host(home, 7)
    finally:
        other.close()
    assert not only_declined(sent(message(task())))


def test_even_an_error_nobody_thought_of_stays_here(home, task, monkeypatch, message):
    def broken(*_args):
        raise MemoryError("ann bought a wheelchair")

    monkeypatch.setattr("client.app.open_host", broken)
    assert only_declined(sent(message(task())))


# --- sessions: what a client knows of one waits in its folder


class Nodes:
    """Three nodes, each with its folder; every message is a new process, and Flower keeps nothing."""

    def __init__(self, home):
        self.home = home

    def path(self, partition):
        return client_folder(self.home, partition) / SEAT

    def __call__(self, step, messages):
        return {name: self.one(step, int(name), record) for name, record in messages.items()}

    def one(self, step, partition, record):
        """One message to one node."""
        route = MESSAGE_TYPES["measurement"] if step == "upload" else STEP_TYPES[step]
        message = Message(record, dst_node_id=partition, message_type=route)
        message.metadata.__dict__["_message_id"] = "m1"
        config = {"partition-id": partition}
        context = Context(run_id=1, node_id=partition, node_config=config, state=RecordDict(), run_config={})
        reply = app(message, context)
        assert not context.state  # Flower gives it to several processes at once
        assert not reply.has_error()
        return reply.content

    def seat(self, partition):
        return seat_of(self.path(partition).read_bytes()) if self.path(partition).exists() else None


@pytest.fixture
def nodes(home, history, consent):
    for partition in (1, 2, 3, 4):
        folder = client_folder(home, partition)
        folder.mkdir(parents=True)
        save_store(ClientStore(f"c{partition}", (f"ann{partition}",), (history(partition),)), folder / "store.npz")
        write_consent(consent(), folder / "consent.toml")
    return Nodes(home)


@pytest.fixture
def session(table, task, masked_plan, nodes):
    def make(**changes):
        return table(nodes, task("measurement", plan=masked_plan(), **changes), ("1", "2", "3", "4"))

    return make


def intents(home):
    ledgers = [client_folder(home, n) / "ledger.jsonl" for n in (1, 2, 3, 4)]
    return [e.event["client"] for path in ledgers if path.exists() for e in read_ledger(path) if "rho" in e.event]


def declined(record):
    return list(record) == ["status"] and dict(record["status"]) == {"code": "declined"}


def test_a_session_goes_through_although_every_step_is_another_process(session, nodes, home):
    at = session()
    for step in STEPS[:-1]:
        assert not any(map(declined, at.play(step).values()))
        assert [nodes.seat(n).member.phase for n in (1, 2, 3, 4)] == [PHASES[step]] * 4
    at.play()
    assert [nodes.seat(n) for n in (1, 2, 3, 4)] == [None] * 4
    assert at.total().any()
    assert abs(at.total()).max() < 2**24  # without its masks; with them entries are about 2^31
    assert intents(home) == ["c1", "c2", "c3", "c4"]


def test_one_that_is_lost_in_a_session_is_not_in_its_sum_and_the_others_go_on(session, home):
    at = session()
    at.play(leave={"upload": ("2",)})
    assert abs(at.total()).max() < 2**24
    assert intents(home) == ["c1", "c3", "c4"]


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_seat_is_taken_out_before_a_step_is_answered(step, session, nodes, monkeypatch):
    """Whatever happens while it is answered: the next process does not find it."""
    at = session()
    at.play(STEPS[STEPS.index(step) - 1])
    messages, seen = at.messages(step), []

    def broken(host, who, _record):
        seen.append(who in host.seats)
        raise MemoryError("ann bought a wheelchair")

    with monkeypatch.context() as patch:
        patch.setattr(client.app, "answer", broken)
        assert declined(nodes.one(step, 1, messages["1"]))
    assert seen == [True]
    assert nodes.seat(1) is None
    assert declined(nodes.one(step, 1, messages["1"]))


@pytest.mark.parametrize("step", STEPS[1:])
def test_an_answered_step_is_not_answered_again(step, session, nodes, home):
    at = session()
    at.play(step)
    paid = intents(home)
    again = nodes(step, at.sent[step])
    assert all(map(declined, again.values()))
    assert [nodes.seat(n) for n in (1, 2, 3, 4)] == [None] * 4
    assert intents(home) == paid


def test_two_processes_at_once_do_not_both_answer_a_step(session, nodes, home, monkeypatch):
    """However Flower starts them: while one holds the ledger no other does, and then no seat is left to answer with."""
    at = session()
    at.play("upload")
    good, other = at.messages("agree")["1"], RecordDict(parts(at.name, survivors=b"\x03"))
    answer, inner = client.app.answer, []

    def meanwhile(*args):
        monkeypatch.setattr(client.app, "answer", answer)
        inner.append(nodes.one("agree", 1, other))
        return answer(*args)

    monkeypatch.setattr(client.app, "answer", meanwhile)
    assert not declined(nodes.one("agree", 1, good))
    assert declined(inner[0])
    assert declined(nodes.one("agree", 1, other))  # one that was started before, and opens the ledger after


def test_a_process_that_dies_before_its_answer_is_kept_has_left_the_session(session, nodes, monkeypatch):
    class Killed(BaseException):
        """Stands for kill -9: nothing in the code catches it."""

    def die(*_args):
        raise Killed

    at = session()
    at.play("upload")
    for name in ("answer", "keep_seat"):
        with monkeypatch.context() as patch:
            patch.setattr(client.app, name, die)
            with pytest.raises(Killed):
                nodes.one("agree", 1 if name == "answer" else 2, at.messages("agree")["1"])
    assert [nodes.seat(n) is None for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert declined(nodes.one("agree", 1, at.messages("agree")["1"]))


def test_a_task_without_a_session_is_declined_and_costs_nothing(nodes, task, masked_plan, message, home):
    assert declined(nodes.one("upload", 1, message(task("measurement", plan=masked_plan()))))
    assert intents(home) == []


def test_a_node_whose_seat_was_lost_has_dropped_out(session, nodes, home):
    at = session()
    at.play("deal")
    nodes.path(2).unlink()
    answers = at.play("upload")
    assert [name for name, each in answers.items() if declined(each)] == ["2"]
    assert intents(home) == ["c1", "c3", "c4"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _raw: b"",
        lambda raw: raw[:-9],
        lambda raw: raw.replace(b"dealt", b"uploaded"),
        lambda raw: raw.replace(b'"picks": [', b'"picks": [-'),
        lambda raw: raw.replace(b'"session": "', b'"session": "00'),
        lambda _raw: b"\xff\x00",
        lambda _raw: b"[" * 100_000,
        lambda _raw: b'{"member": [], "task": 1}',
    ],
    ids=range(8),
)
def test_a_seat_that_was_damaged_is_of_no_use_once_and_forgotten(damage, session, nodes):
    at = session()
    at.play("deal")
    good = at.messages("upload")["1"]
    nodes.path(1).write_bytes(damage(nodes.path(1).read_bytes()))
    assert declined(nodes.one("upload", 1, good))
    assert not nodes.path(1).exists()
    following = session(attempt=2)
    following.play()
    assert following.total().any()


def test_a_locked_ledger_declines_a_step(session, nodes, home):
    at = session()
    at.play("join")
    other = open_host(home, 1)
    try:
        assert declined(nodes.one("deal", 1, at.messages("deal")["1"]))
    finally:
        other.close()


def test_nothing_of_the_user_is_in_a_seat_and_its_owner_alone_may_read_it(session, nodes, history):
    at = session()
    for step in STEPS[:-1]:
        at.play(step)
        for partition in (1, 2, 3, 4):
            raw, rows = nodes.path(partition).read_bytes(), history(partition)
            assert nodes.path(partition).stat().st_mode & 0o077 == 0
            assert not any(name in raw for name in (b"ann", str(nodes.home).encode()))
            values = [value.tobytes() for column in (rows.time, rows.dwell) for value in column]
            assert not any(value in raw or value.hex().encode() in raw for value in values)


def test_a_refusal_is_the_same_bytes_in_every_step(session, nodes, wire):
    refused = set()
    for step in STEPS:
        refused.add(wire.pack(nodes.one(step, 1, RecordDict(parts(bytes(32), roster=b"x")))))
        at = session(attempt=1 + STEPS.index(step))
        if step != "join":
            at.play(STEPS[STEPS.index(step) - 1])
        record = at.messages(step)["1"]
        broken = RecordDict({**record, "session": ConfigRecord({"name": b""}), "server": ConfigRecord({})})
        refused.add(wire.pack(nodes.one(step, 1, broken)))
        refused.add(wire.pack(nodes.one(step, 8, record)))
    assert refused == {wire.pack(declined_record())}


def test_the_registrar_of_consent_and_the_registration_file_are_used(session, nodes, home):
    registrar = Ed25519PrivateKey.from_private_bytes(bytes([5]) * 32)
    for partition in (1, 2, 3, 4):
        folder = client_folder(home, partition)
        text = (folder / "consent.toml").read_text()
        key = registrar.public_key().public_bytes_raw().hex()
        (folder / "consent.toml").write_text(text.replace('roster_key = ""', f'roster_key = "{key}"'))
        identity = own_key(folder / "ledger-key.pem").public_key().public_bytes_raw()
        (folder / REGISTRATION).write_text(registration(registrar, identity).hex() + "\n")
    at = session()
    at.play()
    assert at.total().any()
    (client_folder(home, 2) / REGISTRATION).unlink()
    assert all(map(declined, session(attempt=2).play("deal").values()))
    (client_folder(home, 2) / REGISTRATION).write_text("no hex")
    answers = session(attempt=2).play("join")
    assert [name for name, each in answers.items() if declined(each)] == ["2"]


def test_messages_are_as_long_whatever_the_history(session, nodes, home, history, wire):
    """A whole session for an empty, a full and a held-out history of one of its clients: same order, same sizes."""
    seen = []
    for number, one in enumerate((history(1, 0, 0), history(2, 48, 10), history(3, 4, 4)), 1):
        save_store(ClientStore("c1", ("ann1",), (one,)), client_folder(home, 1) / "store.npz")
        at = session(run=f"run {number}")
        at.play()
        both = {step: (at.sent[step], at.answered[step]) for step in STEPS}
        # Keys are drawn anew; how many picked whom shows in the last steps, with three clients it is everybody.
        seen.append(
            [(s, who, len(wire.pack(r))) for s, pair in both.items() for each in pair for who, r in each.items()]
        )
        assert release_of(at.task) == "measurement"
    assert len(seen[0]) == 2 * 5 * 4
    assert seen[0] == seen[1] == seen[2]

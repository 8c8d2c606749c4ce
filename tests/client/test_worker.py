"""The child that looks into messages: what a hostile server sends is declined, and why stands on this side alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from client import worker
from client.consent import read_consent, write_consent
from client.fleet_link import Incoming
from client.own_log import last_lines
from client.published import current
from client.vault import Behaviour, open_vault
from client.worker import Open, answer
from shared.catalogue import catalogue_bytes
from shared.privacy.ledger import read_ledger
from shared.proofs import addressed, stamp
from shared.protocol import declined_record, is_declined, task_record
from shared.publication import Publication, is_received, publication_record
from shared.wire import pack, unpack

SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
TIP = "5" * 64


@pytest.fixture
def kept(device):
    """The worker's side of an open device."""
    home, key = device
    with open_vault(home.vault, key) as vault:
        opened = Open(home, vault)
        yield opened
        worker._forget_host(opened)


def events(home, kind=None):
    found = [dict(line.event) for line in read_ledger(home.ledger)] if home.ledger.exists() else []
    return [event for event in found if kind is None or event["type"] == kind]


def reasons(home):
    """Everything that this side says of refusals: ledger and log."""
    told = [event["clause"] for event in events(home, "decline")]
    return told + [str(line["why"]) for line in last_lines(home, 50) if line["event"] == "declined"]


def is_constant(record):
    return pack(record) == pack(declined_record())


@pytest.fixture
def local(plan):
    """A plan of trust local: one device answers alone, no session is needed."""
    return plan(trust="local", population=6, smallest_cohort=4)


def test_an_honest_task_is_answered_with_a_vector_and_paid_for(kept, task, message, local, incoming):
    record, facts = answer(kept, incoming(message(task("statistics", plan=local))))
    assert "sealed" in record
    assert facts == {}
    assert [event["type"] for event in events(kept.home)] == ["opened", "plan", "intent", "result", "head"]


HOSTILE = {
    "less noise than consent asks for": ("smallest_noise", {"smallest_noise": 1e5}),
    "a clip that is too wide": ("largest_clip", {"largest_clip": 0.01}),
    "a trust that was not agreed to": ("trust", {"trust": ("distributed",)}),
    "more epsilon than a round may cost": ("epsilon_per_round", {"epsilon_per_round": 1e-3}),
    "more epsilon than a life may cost": ("epsilon_lifetime", {"epsilon_lifetime": 1e-3}),
    "a person who has switched it off": ("enabled", {"enabled": False}),
    "another server than the one that was named": ("servers", {"servers": ("0" * 64,)}),
    "features that may not be switched on": ("features", {"features": ("text",)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_task_that_breaks_consent_is_declined_and_the_reason_stays(name, kept, task, message, local, incoming):
    clause, changes = HOSTILE[name]
    write_consent(read_consent(kept.home.consent).model_copy(update=changes), kept.home.consent)
    record, _ = answer(kept, incoming(message(task(plan=local))))
    assert is_constant(record)
    assert any(f"consent.{clause}" in why for why in reasons(kept.home))
    assert events(kept.home, "intent") == []


def test_consent_is_read_anew_when_the_person_changes_it_while_the_worker_lingers(kept, task, message, local, incoming):
    assert not is_declined(answer(kept, incoming(message(task(plan=local))))[0])
    write_consent(read_consent(kept.home.consent).model_copy(update={"enabled": False}), kept.home.consent)
    assert is_constant(answer(kept, incoming(message(task(plan=local, round=2))))[0])
    assert len(events(kept.home, "intent")) == 1


def test_a_tiny_cohort_is_declined_before_a_seat_is_taken(kept, task, table, plan, incoming):
    write_consent(read_consent(kept.home.consent).model_copy(update={"smallest_cohort": 5}), kept.home.consent)
    session = table(None, task(plan=plan()), ["device"])
    record, facts = answer(kept, incoming(session.messages("join")["device"], "query.join"))
    assert is_constant(record)
    assert facts == {}
    assert any("consent.smallest_cohort: 4 clients" in why for why in reasons(kept.home))


def test_an_unknown_key_is_declined(kept, task, message, local, incoming):
    assert is_constant(answer(kept, incoming(message(task("statistics", plan=local), signer=OTHER)))[0])
    assert any("consent.servers" in why for why in reasons(kept.home))


def test_a_task_that_was_answered_is_not_answered_again(kept, task, message, local, incoming):
    sent = incoming(message(task("statistics", plan=local)))
    assert not is_declined(answer(kept, sent)[0])
    assert is_constant(answer(kept, sent)[0])
    assert len(events(kept.home, "intent")) == 1
    assert any(why.startswith("replay") for why in reasons(kept.home))


def test_a_ledger_that_was_put_back_from_a_backup_answers_nothing(kept, task, message, local, incoming, tmp_path):
    answer(kept, incoming(message(task(plan=local))))
    old = kept.home.ledger.read_bytes()
    second, _ = answer(kept, incoming(message(task(plan=local, round=2))))
    receipt = second.config_records["receipt"]
    worker._forget_host(kept)
    kept.home.ledger.write_bytes(old)
    last = ConfigRecord({"seq": receipt["seq"], "tip": receipt["tip"]})
    sent = RecordDict({**message(task(plan=local, round=3)), "receipt": last})
    assert is_constant(answer(kept, incoming(sent))[0])
    assert any("behind the server's receipt" in why for why in reasons(kept.home))


def test_a_catalogue_that_is_not_here_is_declined(kept, task, message, local, incoming):
    record = message(task("statistics", plan=local, catalogue="0" * 64))
    worker._host(kept, message(task("statistics", plan=local)))
    assert is_constant(answer(kept, incoming(record))[0])
    assert any("is not here" in why for why in reasons(kept.home))


def test_a_run_goes_on_with_the_catalogue_that_it_began_with_when_another_is_served(
    kept, task, message, local, incoming, catalogue
):
    other = replace(catalogue, titles=tuple(f"Title {name}" for name in catalogue.ids))
    answer(kept, incoming(issue(other), "query.publication"))
    assert "sealed" in answer(kept, incoming(message(task("statistics", plan=local))))[0]
    later = task("statistics", plan=local, catalogue=other.version(), run="next")
    assert "sealed" in answer(kept, incoming(message(later)))[0]
    mixed = task("statistics", plan=local, catalogue=other.version(), round=2)
    assert is_constant(answer(kept, incoming(message(mixed)))[0]), "a run keeps its catalogue"
    assert current(kept.home).catalogue == other.version()


def test_a_catalogue_that_is_named_like_a_path_opens_nothing(kept, task, message, local, incoming):
    record = message(task("statistics", plan=local, catalogue="../../device/consent"))
    assert is_constant(answer(kept, incoming(record))[0])
    assert reasons(kept.home) != []


def resigned(record, text=None, arrays=None):
    """A task that somebody wrote by hand, with a good signature."""
    from shared.protocol import task_digest

    text = str(record.config_records["task"]["json"]) if text is None else text
    arrays = record.array_records["arrays"] if arrays is None else arrays
    made = RecordDict({"task": ConfigRecord({"json": text}), "arrays": arrays})
    return addressed(RecordDict({**made, "server": stamp(task_digest(made), SERVER, TIP)}), None)


@pytest.mark.parametrize("field", ["code", "module", "seed", "path"])
def test_code_or_a_path_in_a_task_is_an_unknown_field(field, kept, task, local, incoming):
    honest = task_record(task(plan=local))
    said = json.loads(str(honest.config_records["task"]["json"])) | {field: "import os; os.system('id')"}
    assert is_constant(answer(kept, incoming(resigned(honest, json.dumps(said))))[0])
    assert events(kept.home, "intent") == []
    assert any("ProtocolError" in why for why in reasons(kept.home))


def test_delivered_code_is_never_asked_for():
    text = Path(worker.__file__).with_name("fleet_link.py").read_text(encoding="utf-8")
    assert "get-fab" not in text
    assert "GetFab" not in text


SHAPES = {
    "wrong shapes": Array(np.zeros((3, 3), np.float32)),
    "another type": Array(np.zeros(99, np.float64)),
    "not finite": Array(np.full(4000, np.nan, np.float32)),
    "pickled": Array("object", (1,), "numpy.ndarray", b"\x80\x04K\x01."),
    "a header that asks for a terabyte": Array(
        "float32",
        (1 << 38,),
        "numpy.ndarray",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (274877906944,), }".ljust(128),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_arrays_of_wrong_shapes_are_declined(name, kept, task, local, incoming):
    honest = task_record(task(plan=local))
    arrays = ArrayRecord({**honest.array_records["arrays"], "parameters": SHAPES[name]})
    assert is_constant(answer(kept, incoming(resigned(honest, arrays=arrays)))[0])
    assert events(kept.home, "intent") == []
    assert reasons(kept.home) != []


def test_an_array_that_names_one_chunk_a_million_times_is_never_put_together(kept, task, message, local, incoming):
    sent = incoming(message(task(plan=local)))
    [name] = [name for name, raw in sent.objects.items() if raw.startswith(b"Array ") and b'"float32"' in raw][:1]
    head, _, body = sent.objects[name].partition(b"\0")
    said = json.loads(body) | {"arraychunk_ids": [0] * 2_000_000}
    bomb = json.dumps(said).encode()
    head = b" ".join([*head.split(b" ")[:2], str(len(bomb)).encode()])
    objects = dict(sent.objects) | {name: head + b"\0" + bomb}
    assert is_constant(answer(kept, replace(sent, objects=objects))[0])
    assert any("arrays of" in why for why in reasons(kept.home))


@pytest.mark.parametrize("content", [b"", b"\0", b"Message  0\0", b"Message a 3\0abc", b"Alien  0\0", b"\xff" * 99])
def test_objects_that_are_no_message_are_declined(content, kept, incoming):
    whole = incoming(RecordDict())
    assert is_constant(answer(kept, Incoming(whole.raw, "root", {"root": content}))[0])
    assert is_constant(answer(kept, Incoming(whole.raw, "elsewhere", {"root": content}))[0])
    assert len(reasons(kept.home)) == 2


# --- publications


def issue(catalogue, number=1, **changes):
    whole = Publication(number, "", 0, "", catalogue.version(), catalogue_bytes(catalogue), (), (), b"", None)
    return publication_record(replace(whole, **changes), SERVER, TIP)


def test_a_publication_is_taken_and_answered_with_a_constant(kept, catalogue, incoming):
    record, facts = answer(kept, incoming(issue(catalogue), "query.publication"))
    assert is_received(record)
    assert facts == {"published": 1}
    assert current(kept.home).number == 1


def test_a_publication_of_another_server_or_from_before_is_declined(kept, catalogue, incoming):
    forged = publication_record(Publication(9, "", 0, "", catalogue.version(), b"", (), (), b"", None), OTHER, TIP)
    assert is_constant(answer(kept, incoming(forged, "query.publication"))[0])
    answer(kept, incoming(issue(catalogue, 5, trending=("i1",)), "query.publication"))
    assert is_constant(answer(kept, incoming(issue(catalogue, 4, trending=("i2",)), "query.publication"))[0])
    assert current(kept.home).trending == ("i1",)
    assert any("4: 5 was taken already" in why for why in reasons(kept.home))
    assert any("signed by" in why for why in reasons(kept.home))


# --- sessions, crashes


def joined(home, key, sent):
    with open_vault(home.vault, key) as vault:
        opened = Open(home, vault)
        record, _ = answer(opened, sent)
        worker._forget_host(opened)
    return record


def test_a_seat_outlives_the_worker_and_no_step_is_answered_twice(device, task, table, plan, incoming, host, history):
    """The device sits with five others in one session; each of its answers comes from another process's state."""
    home, key = device
    others = host([history(seed) for seed in range(5)])
    others.masked = True

    def ask(step, messages):
        from client.host import answer as of_host

        answers = {}
        for client, record in messages.items():
            if client == "device":
                answers[client] = joined(home, key, incoming(record))
                assert (home.folder / "seat").exists() == (step in {"join", "deal"})
            else:
                answers[client] = of_host(others, client, record)
        return answers

    keys = {name: Ed25519PrivateKey.from_private_bytes(bytes([40 + int(name)]) * 32) for name in "12345"}
    others.identity = keys.__getitem__
    session = table(ask, task("statistics", plan=plan()), ["device", *"12345"])
    session.play("deal")
    deal = incoming(session.sent["deal"]["device"])
    again = joined(home, key, deal)
    assert is_constant(again), "a seat that has dealt deals no second time"
    session.play()
    assert "device" not in session.masked(), "and is given up for it"


def test_a_whole_session_ends_with_the_sum(device, task, table, plan, incoming, host, history):
    home, key = device
    others = host([history(seed) for seed in range(5)])
    others.masked = True
    keys = {name: Ed25519PrivateKey.from_private_bytes(bytes([40 + int(name)]) * 32) for name in "12345"}
    others.identity = keys.__getitem__

    def ask(_step, messages):
        from client.host import answer as of_host

        return {
            client: joined(home, key, incoming(record)) if client == "device" else of_host(others, client, record)
            for client, record in messages.items()
        }

    session = table(ask, task("statistics", plan=plan()), ["device", *"12345"])
    session.play()
    assert set(session.masked()) == {"device", *"12345"}
    assert session.total().shape == session.masked()["device"].shape
    assert not (home.folder / "seat").exists()


def test_an_event_that_is_recorded_meanwhile_is_trained_on(kept, task, message, local, incoming, device):
    answer(kept, incoming(message(task(plan=local))))
    before = kept.host
    with open_vault(*device_vault(device)) as other:
        other.record([Behaviour("i1", "purchase", 2e9)])
    answer(kept, incoming(message(task(plan=local, round=2))))
    assert kept.host is not before
    [store] = kept.host.stores.values()
    assert len(store.histories[0].item) == 13


def device_vault(device):
    home, key = device
    return home.vault, key


def test_a_full_disk_is_a_refusal_and_the_next_task_is_answered_when_there_is_room(
    kept, task, message, local, incoming, monkeypatch
):
    answer(kept, incoming(message(task(plan=local))))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shared.privacy.ledger.os.write", full)
        assert is_constant(answer(kept, incoming(message(task(plan=local, round=2))))[0])
    assert not is_declined(answer(kept, incoming(message(task(plan=local, round=3))))[0])
    assert [event["round"] for event in events(kept.home, "intent")] == [1, 3]


def test_without_any_catalogue_everything_is_declined(kept, task, message, local, incoming, catalogue):
    for path in kept.home.catalogues.iterdir():
        path.unlink()
    assert is_constant(answer(kept, incoming(message(task("statistics", plan=local))))[0])
    assert any("no catalogue is here yet" in why for why in reasons(kept.home))


# --- the process


def test_frames_come_out_as_they_went_in(incoming):
    pipe = io.BytesIO()
    sent = incoming(RecordDict({"a": ConfigRecord({"b": 1})}))
    worker.send_message(pipe, sent)
    whole = pipe.getvalue()
    assert worker.read_message(io.BytesIO(whole)) == sent
    for cut in (0, 3, 9, len(whole) - 1):
        assert worker.read_message(io.BytesIO(whole[:cut])) is None


@contextmanager
def working(home, key):
    process = subprocess.Popen(
        [sys.executable, "-m", "client.worker", str(home.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        worker.send_frame(process.stdin, key)
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def ask(process, sent):
    worker.send_message(process.stdin, sent)
    facts, record = (worker.read_frame(process.stdout) for _ in range(2))
    return unpack(record), json.loads(facts)


def test_the_process_answers_lingers_and_ends_with_its_input_and_says_its_peak(device, task, message, local, incoming):
    home, key = device
    with working(home, key) as process:
        assert "sealed" in ask(process, incoming(message(task("statistics", plan=local))))[0]
        assert is_constant(ask(process, incoming(message(task("statistics", plan=local))))[0])
        assert key.hex().encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert key not in Path(f"/proc/{process.pid}/environ").read_bytes()
        process.stdin.close()
        assert process.wait(20) == 0
    [last] = [line for line in last_lines(home, 9) if line["event"] == "worker ended"]
    assert last["peak_mb"] > 50


def test_a_worker_whose_agent_is_gone_in_the_middle_ends_at_once(device, task, message, local, incoming):
    home, key = device
    with working(home, key) as process:
        worker.send_message(process.stdin, incoming(message(task("statistics", plan=local))))
        process.stdin.close()
        assert process.wait(20) == 1
    assert len(events(home, "intent")) <= 1


def test_a_worker_that_cannot_begin_says_why_in_the_devices_own_log(device):
    home, _ = device
    with working(home, os.urandom(32)) as process:
        assert process.stdout.read() == b""
        assert process.wait(30) == 1
    assert any("WrongKeyError" in str(line.get("why")) for line in last_lines(home, 5))


def test_what_training_computes_on_is_the_settings_word(kept, task, message, local, incoming):
    text = kept.home.settings.read_text(encoding="utf-8")
    kept.home.settings.write_text(text.replace('device = "auto"', 'device = "cpu"'), encoding="utf-8")
    worker.answer(kept, incoming(message(task(local))))
    assert text.count('device = "auto"') == 1
    assert kept.host is not None
    assert kept.host.device == "cpu"

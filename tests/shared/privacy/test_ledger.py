from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import LedgerError
from shared.privacy import chain
from shared.privacy.ledger import (
    GENESIS,
    Receipt,
    create_ledger,
    open_ledger,
    public_hex,
    read_ledger,
    verify_receipt,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))


def an_intent(number):
    return {"type": "intent", "client": str(number), "round": number, "rho": 0.1}


def written(path, rounds=3, key=KEY):
    """A plan, and for each round two intents and a head: 1 + 3 * rounds lines."""
    ledger = create_ledger(path, key, {"kind": "simulation", "run": "r"})
    for number in range(1, rounds + 1):
        ledger.append([an_intent(number), {"type": "result", "round": number}], head=number)
    ledger.close()
    return path


@pytest.fixture
def path(tmp_path):
    return written(tmp_path / "ledger.jsonl")


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def forged(lines):
    """The chain recomputed by somebody without the key."""
    previous, out = GENESIS, []
    for number, raw in enumerate(lines, 1):
        raw, previous = chain.seal_line(number, previous, json.loads(raw)["event"], "forger")  # noqa: PLW2901 - rewritten
        out.append(raw)
    return out


def refused(path, sentence, **arguments):
    with pytest.raises(LedgerError, match=sentence):
        list(read_ledger(path, **arguments))
    with pytest.raises(LedgerError, match=sentence):
        open_ledger(path, KEY)


# --- what is written is read back


def test_lines_come_back_in_order_with_their_numbers(path):
    lines = list(read_ledger(path))
    assert [line.number for line in lines] == list(range(1, 11))
    assert [line.event["type"] for line in lines] == ["plan"] + ["intent", "result", "head"] * 3
    assert lines[1].event == an_intent(1)


def test_the_first_line_is_the_plan_and_names_the_key(path):
    assert next(read_ledger(path)).event == {"type": "plan", "kind": "simulation", "run": "r", "key": public_hex(KEY)}


def test_a_line_is_what_the_documentation_says(path):
    import hashlib

    first, second = (json.loads(raw) for raw in lines_of(path)[:2])
    assert set(second) == {"seq", "prev", "event", "hash"}
    assert (first["seq"], second["seq"], first["prev"], second["prev"]) == (1, 2, "0" * 64, first["hash"])
    text = json.dumps([2, second["prev"], second["event"]], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == second["hash"]


def test_a_reopened_ledger_goes_on_where_it_stopped(path):
    ledger = open_ledger(path, KEY)
    assert ledger.count == 10
    ledger.append([an_intent(4)], head=4)
    ledger.close()
    assert [line.event["type"] for line in read_ledger(path)][-2:] == ["intent", "head"]


def test_many_lines_are_one_sync_and_are_on_disk_on_return(path, monkeypatch):
    syncs, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (syncs.append(handle), real(handle)))
    ledger = open_ledger(path, KEY)
    ledger.append([an_intent(n) for n in range(100)])
    assert len(syncs) == 1
    assert len(lines_of(path)) == 110
    ledger.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), max_size=4))
def test_any_event_comes_back_as_it_was(tmp_path, events):
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    ledger = create_ledger(path, KEY, {})
    ledger.append([event | {"type": "result"} for event in events])
    ledger.close()
    assert [line.event for line in read_ledger(path)][1:] == [event | {"type": "result"} for event in events]


# --- receipts: what stands can be shown to others, and asked for again


def test_a_closed_round_gives_its_signed_head_away(path):
    ledger = open_ledger(path, KEY)
    assert ledger.append([an_intent(4)]) is None
    receipt = ledger.append([{"type": "result"}], head=4)
    ledger.close()
    *_, before, head = read_ledger(path)
    assert receipt == Receipt(public_hex(KEY), head.number, before.hash, 4, head.event["signature"])
    assert verify_receipt(receipt)


def test_the_hash_of_every_line_that_stands_is_known(path):
    hashes = [line.hash for line in read_ledger(path)]
    ledger = open_ledger(path, KEY)
    assert [ledger.hash_at(n) for n in range(11)] == [GENESIS, *hashes]
    assert ledger.tip == hashes[-1]
    ledger.append([an_intent(4)], head=4)
    assert [ledger.hash_at(n) for n in range(1, 13)] == [line.hash for line in read_ledger(path)]
    ledger.close()


def test_a_ledger_holds_its_own_receipts_and_no_others(path):
    ledger = open_ledger(path, KEY)
    receipts = [ledger.append([an_intent(n)], head=n) for n in (4, 5)]
    assert all(ledger.holds(r.seq, r.tip) for r in receipts)
    assert ledger.holds(0, "")
    assert ledger.holds(1, GENESIS)
    last = receipts[-1]
    for seq, tip in (
        (last.seq + 1, last.tip),  # behind: fewer lines than the receipt
        (last.seq + 1, ledger.tip),  # the next line is not there yet
        (last.seq, receipts[0].tip),
        (last.seq, "e" * 64),
        (0, last.tip),
        (1, ""),
        (-1, last.tip),
        (-len(receipts), last.tip),
    ):
        assert not ledger.holds(seq, tip), (seq, tip)
    ledger.close()


def test_a_ledger_put_back_to_a_backup_does_not_hold_what_came_after(path):
    backup = path.read_bytes()
    ledger = open_ledger(path, KEY)
    receipt = ledger.append([an_intent(4)], head=4)
    ledger.close()
    path.write_bytes(backup)
    ledger = open_ledger(path, KEY)
    assert not ledger.holds(receipt.seq, receipt.tip)
    for number in range(5, 9):  # nor when as many other lines stand there
        ledger.append([an_intent(number)], head=number)
        assert not ledger.holds(receipt.seq, receipt.tip)
    ledger.close()


def test_what_was_not_written_is_not_held(path, monkeypatch):
    ledger = open_ledger(path, KEY)
    before = (ledger.count, ledger.tip)
    with pytest.raises(LedgerError):
        ledger.append([an_intent(4), {"type": None}], head=4)
    assert (ledger.count, ledger.tip) == before
    monkeypatch.setattr(os, "fsync", lambda _handle: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        ledger.append([an_intent(4)], head=4)
    assert (ledger.count, ledger.tip) == before


@pytest.mark.parametrize("since", [None, 0, 4, 10])
def test_opening_shows_every_line_that_stands_once_and_none_that_is_to_be_replayed(path, since):
    seen = []
    ledger = open_ledger(path, KEY, replay_from=since, visit=seen.append)
    standing = 10 if since is None else since
    assert seen == list(read_ledger(path))[:standing]
    assert ledger.count == standing
    ledger.close()


def test_a_replayed_round_gives_the_same_receipt(path):
    ledger = open_ledger(path, KEY)
    first = ledger.append([an_intent(4)], head=4)
    ledger.close()
    ledger = open_ledger(path, KEY, replay_from=10)
    assert not ledger.holds(first.seq, first.tip)
    assert ledger.append([an_intent(4)], head=4) == first
    assert ledger.holds(first.seq, first.tip)
    ledger.close()


def test_a_clients_ledger_begins_without_a_plan(tmp_path):
    ledger = create_ledger(tmp_path / "ledger.jsonl", KEY, {"type": "opened"})
    ledger.append([{"type": "plan", "run": "a"}, {"type": "plan", "run": "b"}])
    ledger.close()
    lines = [line.event for line in read_ledger(tmp_path / "ledger.jsonl")]
    assert lines[0] == {"type": "opened", "key": public_hex(KEY)}
    assert [event.get("run") for event in lines] == [None, "a", "b"]


# --- attacks on a finished file: each names the line


@pytest.mark.parametrize("number", range(1, 11))
def test_an_edited_event_is_found_at_its_line(path, number):
    lines = lines_of(path)
    line = json.loads(lines[number - 1])
    line["event"]["rho"] = 0.0
    lines[number - 1] = json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    refused(path, rf"ledger.jsonl:{number}: the line was edited after it was written")


@pytest.mark.parametrize("number", range(1, 10))
def test_a_dropped_line_is_found_where_the_next_one_stands(path, number):
    lines = lines_of(path)
    del lines[number - 1]
    path.write_bytes(b"".join(lines))
    refused(path, rf":{number}: sequence number {number + 1}, expected {number}: lines dropped or reordered")


@pytest.mark.parametrize("number", range(1, 10))
def test_two_lines_that_changed_places_are_found_at_the_first(path, number):
    lines = lines_of(path)
    lines[number - 1 : number + 1] = lines[number - 1 : number + 1][::-1]
    path.write_bytes(b"".join(lines))
    refused(path, rf":{number}: sequence number {number + 1}, expected {number}")


@pytest.mark.parametrize("number", range(1, 11))
def test_a_line_that_stands_twice_is_found_at_its_copy(path, number):
    lines = lines_of(path)
    lines.insert(number, lines[number - 1])
    path.write_bytes(b"".join(lines))
    refused(path, rf":{number + 1}: sequence number {number}, expected {number + 1}")


def test_a_line_renumbered_to_hide_a_dropped_one_breaks_the_chain(path):
    lines = lines_of(path)
    del lines[2]
    lines[2] = chain.seal_line(3, json.loads(lines[2])["prev"], json.loads(lines[2])["event"], "")[0]
    path.write_bytes(b"".join(lines))
    refused(path, ":3: does not continue the line before: lines edited, dropped or reordered")


@pytest.mark.parametrize("number", range(2, 11))
def test_a_chain_recomputed_without_the_key_fails_at_the_next_head(path, number):
    lines = lines_of(path)
    line = json.loads(lines[number - 1])
    line["event"]["round"] = 77
    lines[number - 1] = json.dumps(line).encode()
    path.write_bytes(b"".join(forged(lines)))
    head = -(-(number - 1) // 3) * 3 + 1
    refused(path, rf":{head}: the round head's signature does not fit the chain and the key")


@pytest.mark.parametrize("event", [{}, {"signature": 5}, {"signature": "zz"}, {"signature": "00" * 64}, {"round": 3}])
def test_a_forged_head_is_refused(path, event):
    lines = lines_of(path)
    lines[9] = json.dumps({"event": {"type": "head"} | event}).encode()
    path.write_bytes(b"".join(forged(lines)))
    refused(path, ":10: the round head's signature does not fit")


def test_a_whole_ledger_under_another_key_is_refused_to_whoever_knows_the_right_one(tmp_path):
    path = written(tmp_path / "other.jsonl", rounds=0, key=OTHER)  # no head that a signature could betray
    assert len(list(read_ledger(path))) == 1
    refused(path, ":1: the ledger belongs to another key", key=KEY.public_key())


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"type": "opened"}, "must name the signer's key"),
        ({"type": "plan"}, "must name the signer's key"),
        ({"type": "plan", "key": "no hex"}, "must name the signer's key"),
        ({"type": "plan", "key": 7}, "must name the signer's key"),
        ({"type": "plan", "key": "00" * 31}, "must name the signer's key"),
        ({"type": "intent", "key": public_hex(KEY)}, "must be one of plan, opened, not 'intent'"),
    ],
)
def test_a_first_line_without_a_key_is_refused(tmp_path, event, sentence):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(chain.seal_line(1, GENESIS, event, "")[0])
    refused(path, f":1: the first line {sentence}")


# --- one spelling


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rho":0.1', b'"rho":9.9,"rho":0.1'),  # first or last wins, depending on who reads
        (b'"rho":0.1', b'"rho":0.10'),
        (b'"rho":0.1', b'"rho": 0.1'),
        (b'"seq":5', b'"seq":5.0'),
        (b'"seq":5', b'"seq":1,"seq":5'),
        (b'"client":"2"', b'"client":"\\u0032"'),
        (b"\n", b" \n"),
    ],
)
def test_another_spelling_of_a_line_is_refused_though_it_means_the_same(path, old, new):
    lines = lines_of(path)
    assert old in lines[4]
    lines[4] = lines[4].replace(old, new)
    path.write_bytes(b"".join(lines))
    refused(path, ":5: another spelling than a ledger writes")


@pytest.mark.parametrize("seq", [True, "1", None, [1], 10**30, -1])
def test_a_sequence_number_is_a_whole_number(path, seq):
    lines = lines_of(path)
    line = json.loads(lines[0]) | {"seq": seq}
    lines[0] = json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    refused(path, ":1: (sequence number|another spelling)")


# --- hostile bytes


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\n", "not a JSON line"),
        (b"{}\n", "exactly seq, prev, event and hash"),
        (b"[]\n", "exactly seq, prev, event and hash"),
        (b"null\n", "exactly seq, prev, event and hash"),
        (b'{"seq":2,"prev":"","hash":"","event":[]}\n', "exactly seq, prev, event and hash"),
        (b'{"seq":2,"prev":"","hash":"","event":{},"more":1}\n', "exactly seq, prev, event and hash"),
        (b"\xff\xfe\n", "not a JSON line"),
        (b"[" * 200_000 + b"\n", "not a JSON line"),
        (b'{"seq":' + b"9" * 10_000 + b"}\n", "not a JSON line"),
        (b'{"seq":2,"prev":"","hash":"","event":{}}\n', "does not continue the line before"),
    ],
    ids=lambda raw: str(raw[:12]),
)
def test_what_is_no_line_is_refused_by_its_number(path, raw, sentence):
    path.write_bytes(lines_of(path)[0] + raw)
    refused(path, f":2: .*{sentence}")


@pytest.mark.parametrize("event", [{}, {"type": 5}, {"type": None}, {"type": ["intent"]}])
def test_an_event_without_a_type_is_refused(path, event):
    lines = lines_of(path)[:1]
    prev = json.loads(lines[0])["hash"]
    line = {"seq": 2, "prev": prev, "event": event, "hash": ""}
    path.write_bytes(lines[0] + json.dumps(line).encode() + b"\n")
    refused(path, ":2: an event names its type")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(path, value):
    prev = json.loads(lines_of(path)[0])["hash"]
    raw = f'{{"event":{{"rho":{value},"type":"intent"}},"hash":"","prev":"{prev}","seq":2}}\n'
    path.write_bytes(lines_of(path)[0] + raw.encode())
    refused(path, ":2: the event cannot be written as JSON")


def test_an_event_nested_as_deep_as_a_parser_bears_is_no_crash(path):
    prev = json.loads(lines_of(path)[0])["hash"]
    for depth in range(100, sys.getrecursionlimit() + 100, 50):
        deep = "[" * depth + "]" * depth
        raw = f'{{"event":{{"a":{deep},"type":"intent"}},"hash":"","prev":"{prev}","seq":2}}\n'
        path.write_bytes(lines_of(path)[0] + raw.encode())
        refused(path, ":2: ")


def test_an_endless_line_is_not_read_to_its_end(path, monkeypatch):
    monkeypatch.setattr(chain, "LINE_LIMIT", 1000)
    path.write_bytes(lines_of(path)[0] + b"9" * 5000)
    refused(path, ":2: the line is longer than any ledger line")


def test_a_line_that_could_not_be_read_back_is_not_written(path, monkeypatch):
    monkeypatch.setattr(chain, "LINE_LIMIT", 1000)
    ledger = open_ledger(path, KEY)
    with pytest.raises(LedgerError, match=r":11: a line of \d+ bytes, more than the 1000"):
        ledger.append([{"type": "intent", "cohort": ["x"] * 1000}])
    ledger.append([an_intent(4)])
    ledger.close()
    assert len(list(read_ledger(path))) == 11


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=3))
def test_no_byte_of_a_signed_ledger_can_be_changed(path, place, put):
    good = path.read_bytes()
    place %= len(good) - len(put)
    bad = good[:place] + put + good[place + len(put) :]
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(bad)
    if bad == good:
        assert len(list(read_ledger(copy))) == 10
    else:
        with pytest.raises(LedgerError, match=r"copy.jsonl:\d+: "):
            list(read_ledger(copy))


# --- torn lines and missing files


@pytest.mark.parametrize("kept", [1, 50])
def test_a_line_that_was_never_synced_is_cut_off_on_opening_and_only_then(path, kept):
    whole = path.read_bytes()
    torn = lines_of(path)[-1][:kept]
    path.write_bytes(b"".join(lines_of(path)[:-1]) + torn)
    with pytest.raises(LedgerError, match=":10: the line is cut off"):
        list(read_ledger(path))
    ledger = open_ledger(path, KEY)
    assert ledger.count == 9
    ledger.append([], head=3)
    ledger.close()
    assert path.read_bytes() == whole


def test_a_torn_end_longer_than_any_line_is_left_for_a_person(path, monkeypatch):
    monkeypatch.setattr(chain, "LINE_LIMIT", 1000)
    path.write_bytes(path.read_bytes() + b"x" * 5000)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=":11: the line is longer"):
        open_ledger(path, KEY)
    assert path.read_bytes() == before


@pytest.mark.parametrize("rest", [b"", b'{"event"'])
def test_a_ledger_without_a_first_line_says_what_to_do(tmp_path, rest):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(rest)
    with pytest.raises(LedgerError, match="empty, so nothing was ever released on its word: delete it"):
        open_ledger(path, KEY)


def test_where_no_ledger_is(tmp_path):
    with pytest.raises(LedgerError, match="no ledger here"):
        open_ledger(tmp_path / "none", KEY)
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(LedgerError, match=re.escape(f"{place}: no readable ledger here")):
            list(read_ledger(place))
    assert not (tmp_path / "none").exists()


def test_a_ledger_is_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="a ledger is never overwritten"):
        create_ledger(path, KEY, {})
    assert path.read_bytes() == before


# --- errors leave the chain whole


@pytest.mark.parametrize("bad", [{"rho": float("nan")}, {"rho": {1, 2}}, {"type": None}])
def test_a_batch_that_cannot_be_written_is_not_written_at_all(path, bad):
    before = path.read_bytes()
    ledger = open_ledger(path, KEY)
    with pytest.raises(LedgerError, match=r"ledger.jsonl:12: "):
        ledger.append([an_intent(4), an_intent(5) | bad])
    assert path.read_bytes() == before
    ledger.append([an_intent(4)])
    ledger.close()
    assert len(list(read_ledger(path))) == 11


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_closes_the_ledger_and_opening_it_again_goes_on(path, monkeypatch, call):
    ledger, real = open_ledger(path, KEY), os.write

    def full(handle, data=b""):
        if call == "write":
            real(handle, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            ledger.append([an_intent(4)])
    with pytest.raises(RuntimeError, match="append after close"):
        ledger.append([an_intent(4)])
    again = open_ledger(path, KEY)
    again.append([an_intent(5)], head=5)
    again.close()
    assert [line.event["type"] for line in read_ledger(path)][-2:] == ["intent", "head"]


def test_a_short_write_is_continued(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    ledger = open_ledger(path, KEY)
    ledger.append([an_intent(4)], head=4)
    ledger.close()
    assert len(list(read_ledger(path))) == 12


def test_a_ledger_that_cannot_be_begun_leaves_no_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            create_ledger(tmp_path / "ledger.jsonl", KEY, {})
    assert not (tmp_path / "ledger.jsonl").exists()
    create_ledger(tmp_path / "ledger.jsonl", KEY, {}).close()


def test_append_after_close_is_a_wrong_call(path):
    ledger = open_ledger(path, KEY)
    ledger.close()
    ledger.close()
    with pytest.raises(RuntimeError, match="append after close"):
        ledger.append([])


# --- one writer


def test_a_second_writer_in_the_same_process_is_refused(path):
    ledger = open_ledger(path, KEY)
    with pytest.raises(LedgerError, match="in use by another process"):
        open_ledger(path, KEY)
    ledger.close()
    open_ledger(path, KEY).close()


def test_a_ledger_just_created_is_locked_too(tmp_path):
    ledger = create_ledger(tmp_path / "ledger.jsonl", KEY, {})
    with pytest.raises(LedgerError, match="in use by another process"):
        open_ledger(tmp_path / "ledger.jsonl", KEY)
    ledger.close()


def try_to_open(path, answer):
    try:
        open_ledger(path, KEY).close()
    except LedgerError as error:
        answer.put(str(error))
    else:
        answer.put("opened")


def test_a_second_process_is_refused(path):
    context = multiprocessing.get_context("fork")  # the child must not inherit the lock by opening the file anew
    ledger, answer = open_ledger(path, KEY), context.Queue()
    child = context.Process(target=try_to_open, args=(path, answer))
    child.start()
    assert "two writers would spend one budget twice" in answer.get(timeout=20)
    child.join()
    ledger.close()


def test_reading_needs_no_lock(path):
    ledger = open_ledger(path, KEY)
    assert len(list(read_ledger(path))) == 10
    ledger.close()


def test_only_the_owner_of_the_key_goes_on(path):
    with pytest.raises(LedgerError, match=":1: the ledger belongs to another key"):
        open_ledger(path, OTHER)


# --- a seeded simulation repeats itself


def replay(ledger, rounds):
    for number in rounds:
        ledger.append([an_intent(number), {"type": "result", "round": number}], head=number)
    ledger.close()


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_a_replay_of_the_same_bytes_is_recognised_and_stands_once(path, rounds):
    before = path.read_bytes()
    ledger = open_ledger(path, KEY, replay_from=1 + 3 * rounds)
    assert ledger.count == 1 + 3 * rounds
    replay(ledger, range(rounds + 1, 4))
    assert ledger.count == 10
    assert path.read_bytes() == before


def test_a_replay_from_the_very_first_line(path):
    before = path.read_bytes()
    ledger = open_ledger(path, KEY, replay_from=0)
    ledger.append([{"kind": "simulation", "run": "r", "type": "plan", "key": public_hex(KEY)}])
    replay(ledger, [1, 2, 3])
    assert path.read_bytes() == before


def test_after_a_replay_what_follows_is_new(path, tmp_path):
    ledger = open_ledger(path, KEY, replay_from=7)
    replay(ledger, [3, 4])
    assert ledger.count == 13
    assert path.read_bytes() == written(tmp_path / "uninterrupted.jsonl", rounds=4).read_bytes()


def test_a_replay_that_was_cut_short_is_completed(path, tmp_path):
    path.write_bytes(b"".join(lines_of(path)[:8]) + b'{"event":{"ro')
    replay(open_ledger(path, KEY, replay_from=7), [3])
    assert path.read_bytes() == written(tmp_path / "uninterrupted.jsonl").read_bytes()


def test_a_replay_that_differs_is_refused_at_its_line_and_writes_nothing(path):
    before = path.read_bytes()
    ledger = open_ledger(path, KEY, replay_from=7)
    with pytest.raises(LedgerError, match=":9: the replayed round differs from what was written"):
        ledger.append([an_intent(3), {"type": "result", "round": 3, "sealed": "other noise"}], head=3)
    ledger.close()
    assert path.read_bytes() == before


def test_without_a_replay_the_same_event_is_a_new_charge(path):
    ledger = open_ledger(path, KEY)
    ledger.append([an_intent(3)])
    ledger.close()
    assert sum(line.event == an_intent(3) for line in read_ledger(path)) == 2


@pytest.mark.parametrize("since", [11, 1000, -1])
def test_a_ledger_shorter_than_its_checkpoint_has_lost_lines(path, since):
    with pytest.raises(LedgerError, match=f"holds 10 lines, the checkpoint was made at {since}: lines were lost"):
        open_ledger(path, KEY, replay_from=since)

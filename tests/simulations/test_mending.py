"""What a resume makes of a killed run's files: what was paid stays paid, and only what was never begun goes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.job import initial_state
from server.receipts import grouped
from server.resuming import SERVER_LEDGER, caught_up, drop_rows, tidy
from shared.errors import RunError
from shared.policy.memory import memory_to_dict
from shared.policy.recall_policy import policy_to_dict
from shared.privacy.chain import sign_head
from shared.privacy.ledger import create_ledger
from simulations.mending import CLIENT_LEDGER, clear
from simulations.run import job_of
from simulations.world import load_world

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def intent(round_, *cohort, kind="update", attempt=1):
    return {"type": "intent", "round": round_, "attempt": attempt, "release": kind, "cohort": list(cohort)}


def result(round_, seq, *clients):
    return {"type": "result", "round": round_, "receipts": grouped(dict.fromkeys(clients, a_receipt(round_, seq)))}


def a_receipt(round_, seq):
    return sign_head(KEY, seq, "ab" * 32, round_)


@pytest.fixture
def state(tmp_path, tiny):
    world = load_world(tiny(), tmp_path, None, lambda _sentence: None)
    return initial_state(job_of(tiny(), world, "run"), np.random.default_rng(0))


@pytest.fixture
def ledger(tmp_path):
    def write(*events):
        book = create_ledger(tmp_path / SERVER_LEDGER, KEY, {"kind": "simulation"})
        book.append(events)
        book.close()
        return tmp_path / SERVER_LEDGER

    return write


def test_what_was_asked_after_the_checkpoint_is_charged_and_counts_as_a_try(state, ledger):
    path = ledger(
        intent(1, "1", "2"), intent(2, "1", "3"), intent(2, "1", "3", attempt=2), intent(2, "3", kind="measurement")
    )
    state = replace(state, round=1, used={"update": {"1": 1, "2": 1}}, ledgers={SERVER_LEDGER: 2})
    after, attempts = caught_up(state, path)
    assert after.used == {"update": {"1": 3, "2": 1, "3": 2}, "measurement": {"3": 1}}
    assert attempts == {(2, "update"): 2, (2, "measurement"): 1}


def test_without_a_checkpoint_all_of_the_ledger_counts(state, ledger):
    after, attempts = caught_up(state, ledger(intent(0, "1", kind="statistics"), intent(1, "1")))
    assert after.used == {"statistics": {"1": 1}, "update": {"1": 1}}
    assert attempts == {(0, "statistics"): 1, (1, "update"): 1}


def test_receipts_after_the_checkpoint_replace_older_ones(state, ledger):
    path = ledger(result(1, 5, "1", "2"), result(2, 9, "1"))
    old = {"1": a_receipt(1, 5), "2": a_receipt(1, 5)}
    after, _ = caught_up(replace(state, receipts=old, ledgers={SERVER_LEDGER: 2}), path)
    assert after.receipts == {"1": a_receipt(2, 9), "2": a_receipt(1, 5)}
    assert caught_up(state, path)[0].receipts == after.receipts


def test_an_end_after_the_checkpoint_stands(state, ledger):
    path = ledger({"type": "end", "stopped": "budget exhausted"})
    assert caught_up(state, path)[0].stopped == "budget exhausted"
    assert caught_up(replace(state, ledgers={SERVER_LEDGER: 2}), path)[0].stopped is None


def test_a_persons_order_after_the_checkpoint_stands(state, ledger):
    policy = policy_to_dict(state.policy)
    event = {
        "type": "order",
        "round": 1,
        "file": "x.json",
        "order": None,
        "outcome": "frozen",
        "reason": "",
        "pending": None,
    }
    event |= {"before": policy, "after": policy | {"frozen": True}, "memory": memory_to_dict(state.controller)}
    path = ledger(event)
    after = caught_up(state, path)[0]
    assert after.policy.frozen
    assert [said["outcome"] for said in after.orders] == ["frozen"]
    assert caught_up(replace(state, ledgers={SERVER_LEDGER: 2}), path)[0].orders == ()


@pytest.mark.parametrize("everything", [False, True])
def test_a_ledger_without_a_whole_line_goes_with_its_key_and_one_with_a_line_stays(tmp_path, ledger, everything):
    ledger()
    (tmp_path / CLIENT_LEDGER).write_bytes(b'{"event":')
    (tmp_path / "keys").mkdir()
    for name in ("server.pem", "clients.pem"):
        (tmp_path / "keys" / name).write_bytes(b"half a key")
    clear(tmp_path, everything=everything)
    kept = set() if everything else {SERVER_LEDGER, "server.pem"}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} - {"config.toml"} == kept


def test_nothing_there_is_nothing_to_clear(tmp_path):
    clear(tmp_path, everything=False)
    assert not list(tmp_path.iterdir())


def test_drafts_go_and_nothing_else(tmp_path):
    for name in (".checkpoint.safetensors.17.new", ".report.html.17.tmp", ".lock", "rounds.jsonl", "mine.new"):
        (tmp_path / name).write_text("x")
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "rounds.jsonl", "mine.new"}


@pytest.mark.parametrize(("last", "kept"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_rows_after_the_checkpoint_and_half_rows_are_written_again(tmp_path, last, kept):
    path = tmp_path / "rounds.jsonl"
    path.write_text("".join(json.dumps({"round": n}) + "\n" for n in (1, 2, 3)) + '{"round": 4')
    drop_rows(path, last)
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == list(range(1, kept + 1))


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\nnot a row\n')
    with pytest.raises(RunError, match=r"rounds\.jsonl:2: not a row"):
        drop_rows(tmp_path / "rounds.jsonl", 5)

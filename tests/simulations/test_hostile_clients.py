"""Clients that break, lie or vanish, in a whole run: the round goes on without them, or is aborted and charged."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

import simulations.run
from shared.privacy.accounting import epsilon_by_pld
from shared.privacy.chain import sign_head
from shared.privacy.ledger import read_ledger
from shared.protocol import declined_record
from simulations.engine import InProcessGrid
from simulations.run import new_run


def vector_record(values: np.ndarray) -> RecordDict:
    return RecordDict({"sealed": ArrayRecord({"vector": Array(values)})})


def nan(vector):
    return vector_record(np.full(len(vector), np.nan, np.float32))


def infinite(vector):
    return vector_record(np.full(len(vector), np.inf, np.float64))


def huge(vector):
    return vector_record(np.full(len(vector), 2**31 - 1, np.int32))


def short(vector):
    return vector_record(vector[:3])


def empty(_vector):
    return RecordDict()


def declined(_vector):
    return declined_record()


def crash(_vector):
    return Error(code=0, reason="ValueError: user 7 has 3 purchases")


def lost(_vector):
    return None


@pytest.fixture
def run(tmp_path, tiny, silent, monkeypatch):
    """Run with clients whose answers are replaced: ``run({node: how}, *settings)``."""

    def start(how, *sets, rounds=None, watch=lambda _reply: None):
        class TamperingGrid(InProcessGrid):
            def pull_messages(self, message_ids):
                out = []
                for reply in super().pull_messages(message_ids):
                    watch(reply)
                    node, number = reply.metadata.src_node_id, reply.metadata.group_id
                    tamper = how.get(node) if rounds is None or int(number) in rounds else None
                    vector = reply.content.array_records["sealed"]["vector"].numpy() if tamper else None
                    answer = reply.content if tamper is None else tamper(vector)
                    if isinstance(answer, RecordDict) and "sealed" in answer:
                        answer = RecordDict({"receipt": reply.content["receipt"], **answer})
                    if answer is not None:
                        out.append(self._again(reply, answer))
                return out

            @staticmethod
            def _again(reply, answer):
                changed = Message(answer, reply_to=reply)
                for name in ("_src_node_id", "_dst_node_id", "_reply_to_message_id"):
                    changed.metadata.__dict__[name] = reply.metadata.__dict__[name]
                return changed

        monkeypatch.setattr(simulations.run, "InProcessGrid", TamperingGrid)
        config = tiny("cohort.deadline=0.5", *sets)
        summary = new_run(config, tmp_path / "a", cache=tmp_path / "cache", source=None, screen=silent)
        path = tmp_path / "a" / "rounds.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return summary, rows

    return start


@pytest.mark.parametrize("how", [nan, infinite, huge, short, empty, crash, lost])
def test_one_bad_client_is_left_out_and_the_round_goes_on(run, how):
    summary, rows = run({5: how})
    assert summary["stopped"] == "finished"
    for row in rows:
        assert row["cohort"] == {"asked": 24, "answered": 23, "declined": 0, "failed": 1}
    assert np.isfinite(summary["test"]["recall@10"])


def receipt(**changes):
    """An honest vector under a receipt of round 2 that its client's ledger never gave."""
    real = asdict(sign_head(Ed25519PrivateKey.from_private_bytes(bytes(32)), 10**6, "ab" * 32, 2))
    return lambda vector: RecordDict({**vector_record(vector), "receipt": ConfigRecord(real | changes)})


@pytest.mark.parametrize(
    "how",
    [receipt(), receipt(round=3), receipt(signature="00" * 64), receipt(seq=0), receipt(tip=""), receipt(key="")],
    ids=["another key", "another round", "not signed", "line 0", "no tip", "no key"],
)
def test_an_answer_whose_receipt_does_not_hold_is_left_out_and_the_client_may_come_back(run, how):
    _, rows = run({5: how}, rounds={2})
    assert [row["cohort"]["failed"] for row in rows] == [0, 1, 0]


def test_a_client_cannot_hand_in_an_old_receipt_again(run, tmp_path):
    first: list[ConfigRecord] = []

    def stale(vector):
        return RecordDict({**vector_record(vector), "receipt": first[0]}) if first else None

    def remember(reply):
        if reply.metadata.src_node_id == 5 and reply.metadata.group_id == "1" and not first:
            first.append(reply.content["receipt"])

    _, rows = run({5: stale}, rounds={2, 3}, watch=remember)
    assert [row["cohort"]["failed"] for row in rows] == [0, 1, 1]


def test_a_client_that_declines_is_counted_as_that(run):
    _, rows = run({5: declined})
    assert rows[0]["cohort"] == {"asked": 24, "answered": 23, "declined": 1, "failed": 0}


def test_no_text_of_a_failing_client_is_kept(run, tmp_path):
    run({5: crash})
    assert "purchases" not in (tmp_path / "a" / "ledger.jsonl").read_text()


def test_below_the_smallest_cohort_a_round_is_aborted_charged_and_changes_nothing(run, tmp_path):
    summary, rows = run(dict.fromkeys(range(1, 6), lost), rounds={2})
    assert summary["stopped"] == "finished"
    assert "aborted" in rows[1]["reason"]
    assert rows[1]["cohort"]["answered"] == 19
    assert rows[1]["estimate"] is None
    assert summary["client_updates"] == 2 * 24
    results = [e.event for e in read_ledger(tmp_path / "a" / "ledger.jsonl") if e.event["type"] == "result"]
    assert [e["aborted"] for e in results if e["round"] == 2] == [True]
    # Asked is paid: the claim counts the aborted round like any other.
    rho = next(
        e.event["rho"] for e in read_ledger(tmp_path / "a" / "ledger.jsonl") if e.event.get("release") == "update"
    )
    assert summary["epsilon_by_kind"]["update"] == pytest.approx(epsilon_by_pld(3 * rho, 1e-3), rel=1e-5)


def test_all_clients_failing_three_rounds_in_a_row_end_the_run_with_its_results_kept(run):
    summary, rows = run(dict.fromkeys(range(1, 25), nan), "rounds=9", rounds=range(1, 10))
    assert summary["stopped"] == "no quorum"
    assert len(rows) == 3
    assert summary["client_updates"] == 0
    assert summary["test"]["recall@10"] >= 0


def test_without_the_one_off_releases_encoder_linear_ends_before_any_update_is_paid_for(run, tmp_path):
    summary, rows = run(dict.fromkeys(range(1, 25), lost), rounds={0})
    assert (summary["stopped"], summary["rounds_done"], rows) == ("no contexts", 0, [])
    assert "contexts" in summary["model"]["why"]
    events = [line.event for line in read_ledger(tmp_path / "a" / "ledger.jsonl")]
    assert [event["release"] for event in events if event["type"] == "intent"] == ["statistics"]
    assert next(event["stopped"] for event in events if event["type"] == "end") == "no contexts"
    assert "Stopped: no contexts to read histories by after 0 rounds" in (tmp_path / "a" / "report.html").read_text()


def test_other_encoders_do_without_the_one_off_statistics(run):
    summary, _ = run(dict.fromkeys(range(1, 25), lost), "model.encoder=mean", "model.rank=4", rounds={0})
    assert (summary["stopped"], summary["rounds_done"]) == ("finished", 3)


def test_more_survivors_than_the_smallest_cohort_only_add_noise(run, tmp_path):
    run({5: lost})
    results = [e.event for e in read_ledger(tmp_path / "a" / "ledger.jsonl") if e.event["type"] == "result"]
    plan = next(iter(read_ledger(tmp_path / "a" / "ledger.jsonl"))).event["plan"]
    honest = 20  # ceil((1 - 0.1) * 22): a tenth of the smallest cohort may collude
    full = plan["update"]["noise_multiplier"] * plan["update"]["steps"]
    update = next(e for e in results if e["release"] == "update")
    assert update["sum_sigma"] == pytest.approx(full * (23 / honest) ** 0.5)
    assert update["sum_sigma"] >= full

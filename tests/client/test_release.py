"""The one door: the order of things, whatever goes wrong in between."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.gate import BEHIND, Gate, Request
from client.release import release, seal
from shared.privacy.ledger import create_ledger, read_ledger, verify_receipt
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Mechanism
from shared.proofs import LastReceipt, ServerStamp

LENGTH = 5


class Door:
    """A release with everything it does written down in ``steps``."""

    def __init__(self, plan, consent, path, monkeypatch):
        self.gate = Gate("c" * 64, dict.fromkeys("123", consent))
        self.plan, self.path, self.steps = plan, path, []
        self.ledger = create_ledger(path, Ed25519PrivateKey.generate(), {"type": "opened"})
        write = self.ledger._write

        def remember(fresh):
            write(fresh)
            kinds = [json.loads(line)["event"]["type"] for line in bytes(fresh).splitlines()]
            self.steps.append("+".join(dict.fromkeys(kinds)))

        monkeypatch.setattr(self.ledger, "_write", remember)
        self.rows = {c: np.eye(LENGTH)[: int(c)] * 0.1 for c in "123"}

    def noise(self, client):
        def words(n):
            self.steps.append(f"noise {client}")
            return np.random.SFC64(int(client)).random_raw(n)

        return NoiseSource("seeded", words)

    def contribute(self, clients):
        self.steps.append("compute " + "".join(clients))
        yield from np.array_split(np.concatenate([self.rows[c] for c in clients]), 2)

    def __call__(self, clients="123", *, kind="update", contribute=None, private=False, last=None, **changes):
        said = {"run": "run", "round": 1, "attempt": 1, "plan": self.plan, "catalogue": "c" * 64, "features": ()}
        server = ServerStamp("a" * 64, "5" * 64)
        request = Request(kind, **(said | changes), server=server, digest="d" * 64, length=LENGTH, private=private)
        sealed, self.receipt = release(
            request,
            {client: (last or {}).get(client, LastReceipt(0, "")) for client in clients},
            lambda client: len(self.rows[client]),
            contribute or self.contribute,
            gate=self.gate,
            today=date(2026, 3, 1),
            ledger=self.ledger,
            noise=self.noise,
        )
        return sealed

    @property
    def spend(self):
        """(client, kind) -> intents."""
        return {(c, kind): n for c, spend in self.gate.spends.items() for (_, kind), n in spend.used.items()}

    def events(self, kind):
        return [line.event for line in read_ledger(self.path) if line.event["type"] == kind]


@pytest.fixture
def door(plan, consent, tmp_path, monkeypatch):
    made = []

    def make(**changes):
        made.append(Door(plan(**changes), consent(), tmp_path / "ledger.jsonl", monkeypatch))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


def test_intents_are_on_disk_before_anything_is_computed_or_drawn_and_results_before_anything_leaves(door):
    one = door()
    sealed = one("12")
    assert one.steps == ["plan+intent", "compute 12", "noise 1", "noise 2", "result+head"]
    assert sorted(sealed) == ["1", "2"]
    assert {v.dtype for v in sealed.values()} == {np.dtype(np.int32)}
    assert one.spend == {("1", "update"): 1, ("2", "update"): 1}
    assert [e["noise_source"] for e in one.events("intent")] == ["seeded", "seeded"]


def test_the_receipt_is_the_signed_head_that_closes_the_round(door):
    one = door()
    one("12")
    lines = list(read_ledger(one.path))
    head = lines[-1]
    assert verify_receipt(one.receipt)
    assert head.event == {"type": "head", "round": 1, "signature": one.receipt.signature}
    assert (one.receipt.seq, one.receipt.tip, one.receipt.round) == (head.number, lines[-2].hash, 1)
    assert one.receipt.key == lines[0].event["key"]


def test_every_client_is_held_against_its_own_receipt(door):
    one = door()
    one("12")
    good, ahead = LastReceipt(one.receipt.seq, one.receipt.tip), LastReceipt(one.receipt.seq + 1, one.receipt.tip)
    other = LastReceipt(one.receipt.seq, "e" * 64)
    assert list(one("123", round=2, last={"1": good, "2": ahead, "3": other})) == ["1"]
    assert [(e["client"], e["clause"]) for e in one.events("decline")] == [("2", BEHIND), ("3", BEHIND)]
    assert list(one("3", round=2)) == ["3"]  # a server that never had one says so


def test_consent_is_each_clients_own(door, consent):
    one = door()
    one.gate.consents = {"1": consent(), "2": consent(enabled=False)}
    assert list(one("123")) == ["1"]
    assert [(e["client"], e["clause"]) for e in one.events("decline")] == [
        ("2", "consent.enabled: this client takes part in nothing"),
        ("3", "no consent.toml"),
    ]


def test_a_run_that_nobody_takes_part_in_is_not_pinned(door, consent):
    one = door()
    agreed = one.gate.consents
    one.gate.consents = {}
    assert one("12") == {}
    assert (one.gate.pins, one.events("plan")) == ({}, [])
    one.gate.consents = agreed
    one("12")
    one("12", round=2)
    assert [e["run"] for e in one.events("plan")] == ["run"]


@pytest.mark.parametrize("failing", ["first", "middle", "short"])
def test_a_crash_in_the_middle_wastes_budget_and_releases_nothing(door, failing):
    one = door()

    def contribute(clients):
        if failing == "first":
            raise MemoryError
        yield one.rows["1"]
        if failing == "middle":
            raise ValueError("user 7 has 3 purchases")

    with pytest.raises((MemoryError, ValueError, RuntimeError)):
        one("123", contribute=contribute)
    assert len(one.events("intent")) == 3
    assert one.events("result") == []
    assert one.spend == {(c, "update"): 1 for c in "123"}


def test_nothing_is_drawn_when_the_intent_cannot_be_written(door, monkeypatch):
    one = door()

    def full(_fresh):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.ledger, "_write", full)
    with pytest.raises(OSError, match="No space"):
        one("12")
    assert one.steps == []


def test_nothing_leaves_when_the_result_cannot_be_written(door, monkeypatch):
    one = door()
    write, calls = one.ledger._write, []

    def second(fresh):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(fresh)

    monkeypatch.setattr(one.ledger, "_write", second)
    with pytest.raises(OSError, match="No space"):
        one("12")
    assert one.spend == {("1", "update"): 1, ("2", "update"): 1}


def test_who_declines_is_not_charged_and_does_not_shift_the_rows_of_the_others(door):
    one = door(epsilon=None)
    for attempt in (2, 3, 4):
        one("2", attempt=attempt)
    one.steps.clear()
    sealed = one("123")
    assert one.steps == ["decline+intent", "compute 13", "result+head"]
    assert sorted(sealed) == ["1", "3"]
    unit = int(0.1 * one.plan.update.steps / one.plan.update.clip)
    assert sealed["1"].tolist() == [unit, 0, 0, 0, 0]
    assert sealed["3"].tolist() == [unit, unit, unit, 0, 0]
    assert one.spend["2", "update"] == 3
    assert [(e["client"], e["clause"]) for e in one.events("decline")] == [
        ("2", "update: all 3 participations are used up")
    ]


def test_when_all_decline_nothing_is_computed(door):
    one = door()
    assert one("123", catalogue="d" * 64) == {}
    assert one.receipt is None
    assert one.steps == ["decline"]
    assert len(one.events("decline")) == 3


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_a_stream_of_rows_is_cut_into_clients_whatever_its_chunks(door, chunk):
    one = door(epsilon=None)
    rows = np.concatenate([one.rows[c] * (0.5 + int(c)) for c in "3121"])
    one.rows = {"3": one.rows["3"], "1": one.rows["1"], "2": one.rows["2"]}

    def contribute(clients):
        assert clients == ["3", "1", "2"]
        for start in range(0, 6, chunk):
            yield rows[start : min(start + chunk, 6)].astype(np.float32)

    sealed = one("312", contribute=contribute)
    scale = one.plan.update.steps / one.plan.update.clip
    for client, factor, units in (("3", 3.5, 3), ("1", 1.5, 1), ("2", 2.5, 2)):
        wanted = (np.arange(LENGTH) < units) * factor * 0.1 * scale
        assert np.abs(sealed[client] - wanted).max() <= 1


def test_rows_of_another_width_never_leave(door):
    one = door()
    with pytest.raises(ValueError, match="expected"):
        one("1", contribute=lambda _clients: iter([np.zeros((1, LENGTH + 1))]))
    assert one.events("result") == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_makes_the_contribution_zero(door, bad):
    one = door(epsilon=None)
    one.rows["2"][0, 3] = bad
    sealed = one("2")["2"]
    unit = int(0.1 * one.plan.update.steps / one.plan.update.clip)
    assert sealed.tolist() == [0, unit, 0, 0, 0]  # the other unit of the client counts


def test_every_unit_is_clipped_by_itself(door):
    one = door(epsilon=None)
    one.rows["3"] = np.full((3, LENGTH), 1e30)
    steps = one.plan.update.steps
    length = np.linalg.norm(one("3")["3"])
    assert length == pytest.approx(3 * steps, rel=1e-3)
    assert length <= 3 * steps


@pytest.mark.parametrize("rows", [np.zeros((1, LENGTH)), np.full((1, LENGTH), 9.0), np.full((1, LENGTH), np.nan)])
def test_an_answer_has_the_same_size_whatever_it_holds(door, rows):
    one = door()
    one.rows["1"] = rows
    sealed = one("1")["1"]
    assert (sealed.dtype, sealed.shape) == (np.int32, (LENGTH,))
    assert sealed.any()  # noise, also when there is nothing


def test_noise_has_the_share_of_the_plan():
    mechanism = Mechanism(participations=1, clip=1.0, steps=64, noise_multiplier=1.0)
    drawn = seal(
        np.zeros((2, 100_000), np.int32), mechanism, 40.0, NoiseSource("seeded", np.random.SFC64(1).random_raw)
    )
    assert abs(drawn.std() / 40.0 - 1) < 0.02


def test_a_row_that_is_private_already_is_only_rounded_and_bounded():
    mechanism = Mechanism(participations=1, clip=0.5, steps=1024, noise_multiplier=1.0)
    row = np.array([[0.25, -0.0001, 1e12, -1e12, np.nan]])
    sealed = seal(row, mechanism, 0.0, NoiseSource("seeded", np.random.SFC64(1).random_raw), private=True)
    assert sealed.tolist() == [512, 0, 2**30, -(2**30), 0]

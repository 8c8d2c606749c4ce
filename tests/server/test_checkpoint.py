"""The checkpoint: the old file or the new one, never half."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from server.aggregation import OptimizerState
from server.checkpoint import Best, State, charge, load_state, save_state, used_by
from shared import files as module
from shared.config import PolicySection, first_policy
from shared.errors import RunError
from shared.files import write_atomically
from shared.policy.memory import Memory, memory_to_dict
from shared.policy.orders import propose
from shared.policy.sight import Seen
from shared.privacy.ledger import Receipt


@pytest.fixture(scope="session")
def state():
    policy = first_policy(PolicySection())
    arrays = [np.random.default_rng(n).normal(size=9).astype(np.float32) for n in range(3)]
    return State(
        round=4,
        parameters=arrays[0],
        optimizer=OptimizerState(3, arrays[1], arrays[2]),
        prior=np.linspace(-1, 1, 5).astype(np.float32),
        policy=policy,
        controller=Memory(policy),
        used={"update": {"1": 3}, "statistics": {"1": 1}},
        failures=1,
        updates=2829,
        ledgers={"ledger.jsonl": 12},
        receipts={
            "1": Receipt("k", 7, "t", 4, "s"),
            "2": Receipt("k", 7, "t", 4, "s"),
            "3": Receipt("l", 2, "u", 1, "r"),
        },
        best=Best(3, replace(policy, version=2), Seen(0.2, 0.01), Seen(0.21, 0.02)),
        pending=propose(
            4, policy, replace(policy, depth=300), memory_to_dict(Memory(policy)), "move", "coverage is low"
        ),
        orders=({"order": "freeze", "who": "Ada"},),
        activity=(35, 92),
        peak=0.25,
        trending=("i7", "i2"),
    )


def same(one, two):
    arrays = lambda s: (s.parameters, s.prior, s.optimizer.first, s.optimizer.second)  # noqa: E731 - used once, here
    plain = lambda s: replace(s, parameters=0, prior=0, optimizer=s.optimizer.step)  # noqa: E731 - as above
    return plain(one) == plain(two) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(arrays(one), arrays(two), strict=True)
    )


def test_what_was_saved_is_loaded(state, tmp_path):
    save_state(state, tmp_path / "c.safetensors")
    assert same(load_state(tmp_path / "c.safetensors"), state)
    assert os.listdir(tmp_path) == ["c.safetensors"]  # noqa: PTH208 - names only


def _saved(state, path, change):
    """A checkpoint whose public part is changed."""
    save_state(state, path)
    with safe_open(path, framework="numpy") as file:
        public = json.loads(file.metadata()["state"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    change(public)
    path.write_bytes(save(arrays, metadata={"state": json.dumps(public)}))
    return path


def test_a_checkpoint_from_before_there_was_trending_is_read(state, tmp_path):
    path = _saved(state, tmp_path / "c", lambda public: public.pop("trending"))
    assert same(load_state(path), replace(state, trending=()))


def test_clients_asked_as_often_stand_in_one_entry(state, tmp_path):
    asked = charge(charge(state, [f"new {n}" for n in range(500)], "update"), ["new 7"], "update")
    path = tmp_path / "c"
    save_state(asked, path)
    with safe_open(path, framework="numpy") as file:
        entries = json.loads(file.metadata()["state"])["used"]
    assert {kind: sorted(sorts) for kind, sorts in entries.items()} == {"update": ["1", "2", "3"], "statistics": ["1"]}
    assert load_state(path).used == asked.used


@pytest.mark.parametrize("value", ["i7", [7], None, {"i7": 1}])
def test_what_is_trending_is_a_list_of_item_ids(value, state, tmp_path):
    path = _saved(state, tmp_path / "c", lambda public: public.update(trending=value))
    with pytest.raises(RunError, match="trending"):
        load_state(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_before_the_rename_leaves_the_old_file(call, state, tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_state(state, path)

    def killed(*_args, **_more):
        raise KeyboardInterrupt

    target = (module.os, "fsync") if call == "fsync" else (type(path), "replace")
    with monkeypatch.context() as patch:
        patch.setattr(*target, killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(replace(state, round=5), path)
    assert same(load_state(path), state)
    save_state(replace(state, round=5), path)  # what the crash left behind is in nobody's way
    assert load_state(path).round == 5


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_full_disk_is_an_error_and_leaves_the_old_file(call, state, tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_state(state, path)

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            full()

    opened = module.os.fdopen
    changes = {
        "open": (module.os, "open", full),
        "write": (module.os, "fdopen", lambda *a, **k: Full(opened(*a, **k))),
        "fsync": (module.os, "fsync", full),
        "replace": (type(path), "replace", full),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*changes[call])
        with pytest.raises(OSError, match="No space"):
            save_state(replace(state, round=5), path)
    assert same(load_state(path), state)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps, sync, rename = [], os.fsync, type(tmp_path).replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (steps.append("sync"), sync(fd))[1])
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: (steps.append("rename"), rename(self, to))[1])
    write_atomically(tmp_path / "x", b"abc")
    assert steps == ["sync", "rename", "sync"]
    assert (tmp_path / "x").read_bytes() == b"abc"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_a_sentence(state, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "c.safetensors"
    save_state(state, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(RunError, match=r"c\.safetensors: no readable checkpoint"):
        load_state(path)


def arrays(size=9, **changes):
    return {name: np.zeros(size, np.float32) for name in ("parameters", "prior", "first", "second")} | changes


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        save(arrays()),
        save(arrays(), metadata={"state": "[]"}),
        save(arrays(), metadata={"state": '{"round": 1}'}),
        save(arrays(), metadata={"state": "{"}),
        save({"parameters": np.zeros(3)}, metadata={"state": "{}"}),
    ],
    ids=range(7),
)
def test_a_file_of_something_else_is_a_sentence(content, tmp_path):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(RunError, match="no readable checkpoint"):
        load_state(tmp_path / "c")


def test_participations_as_they_were_written_before_are_a_sentence(state, tmp_path):
    """An entry for each sort of clients, as of 2026-11."""
    earlier = [{"asked": {"update": 3}, "clients": ["1"]}]
    path = _saved(state, tmp_path / "c", lambda public: public.update(used=earlier))
    with pytest.raises(RunError, match="no readable checkpoint"):
        load_state(path)


@pytest.mark.parametrize(("first", "second"), [(10, 10), (8, 9), (9, 8)])
def test_moments_of_another_model_are_refused(state, tmp_path, first, second):
    moments = OptimizerState(1, np.zeros(first, "f4"), np.zeros(second, "f4"))
    save_state(replace(state, optimizer=moments), tmp_path / "c")
    with pytest.raises(RunError, match="moments"):
        load_state(tmp_path / "c")


def test_there_may_be_fewer_moments_than_parameters(state, tmp_path):
    """Not every parameter is trained (encoder linear)."""
    save_state(replace(state, optimizer=OptimizerState(1, np.ones(4, "f4"), np.zeros(4, "f4"))), tmp_path / "c")
    assert load_state(tmp_path / "c").optimizer.first.tolist() == [1.0] * 4


def test_no_checkpoint_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match="no readable checkpoint"):
        load_state(tmp_path / "nowhere")


def test_a_charge_is_per_client_and_kind_and_leaves_the_old_state(state):
    after = charge(charge(state, ["1", "3"], "update"), ["3"], "measurement")
    assert after.used == {"update": {"1": 4, "3": 1}, "statistics": {"1": 1}, "measurement": {"3": 1}}
    assert state.used == {"update": {"1": 3}, "statistics": {"1": 1}}


def test_participations_by_kind(state):
    assert used_by(state, "update") == {"1": 3}
    assert used_by(state, "measurement") == {}


def test_the_order_in_which_receipts_came_does_not_show_in_the_file(state, tmp_path):
    for name, receipts in (("a", state.receipts), ("b", dict(reversed(list(state.receipts.items()))))):
        save_state(replace(state, receipts=receipts), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

"""Two thousand tasks that somebody has tampered with: none raises, each gets a vector or a no."""

from __future__ import annotations

import json
from copy import deepcopy

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import client.host
from client.host import answer_all
from shared.errors import FedrecallError
from shared.privacy.ledger import read_ledger
from shared.protocol import task_record

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["update", "statistics", "profile", "measurement", "local", "dot", "squared", "run"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(tree, way=()):
    """All paths into a JSON tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*way, key)
            yield from places(value, (*way, key))


def put_if_there(fields, way, value):
    place = fields
    for part in way[:-1]:
        if not isinstance(place, dict) or part not in place:
            return
        place = place[part]
    if isinstance(place, dict):
        if value is ...:
            place.pop(way[-1], None)
        else:
            place[way[-1]] = value


def test_two_thousand_fuzzed_tasks_never_raise(host, task, plan, history, message, monkeypatch):
    monkeypatch.setattr("shared.privacy.ledger.os.fsync", lambda _fd: None)  # speed; the order is tested elsewhere
    one = host([history(1), history(2, 0, 0)])
    goods = [task_record(task(kind)) for kind in ("update", "measurement", "statistics", "profile", "trending")]
    goods.append(task_record(task(plan=plan(trust="local"))))
    note, count = client.host._note, 0

    def only_ours(host_, clients, error):
        assert isinstance(error, FedrecallError), error  # the net is for the unforeseen; a parser should foresee
        note(host_, clients, error)

    monkeypatch.setattr(client.host, "_note", only_ours)

    @settings(max_examples=2000, deadline=None, derandomize=True)
    @given(st.data())
    def fuzz(data):
        nonlocal count
        count += 1
        good = data.draw(st.sampled_from(goods))
        fields, arrays = deepcopy(json.loads(good["task"]["json"])), dict(good.array_records["arrays"])
        fields["header"]["attempt"] = count  # else all but one are replays
        for way in data.draw(st.lists(st.sampled_from(list(places(fields))), min_size=1, max_size=3)):
            put_if_there(fields, way, data.draw(values | st.just(...)))
        if arrays and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(arrays)))
            raw = bytearray(arrays[name].data)
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
            arrays[name] = Array(dtype="float32", shape=arrays[name].shape, stype="numpy.ndarray", data=bytes(raw))
        text = ConfigRecord({"json": json.dumps(fields)})
        signed = message(RecordDict({"task": text, "arrays": ArrayRecord(arrays)}))
        if data.draw(st.integers(0, 9)) == 0:
            part = data.draw(st.sampled_from(["server", "receipt"]))
            field = data.draw(st.sampled_from(sorted(signed[part])))
            signed[part][field] = data.draw(st.text(max_size=5) | st.integers(-(2**60), 2**60) | st.binary(max_size=3))
        answers = answer_all(one, {"1": signed, "2": signed})
        assert sorted(answers) == ["1", "2"]
        for each in answers.values():
            kind = {name: dict(part) for name, part in each.items() if name not in {"sealed", "receipt"}}
            assert kind == {"status": {"code": "declined"}} or (not kind and list(each) == ["sealed", "receipt"])

    fuzz()
    assert count >= 2000
    assert max((n for spend in one.gate.spends.values() for n in spend.used.values()), default=0) <= 3
    assert one.ledger.count == len(list(read_ledger(one.path)))

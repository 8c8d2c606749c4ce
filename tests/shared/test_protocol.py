"""What crosses the wire: tasks and answers as data, and nothing that is not exactly that."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import PolicySection, first_policy
from shared.encoder.spec import EncoderSpec
from shared.errors import ProtocolError
from shared.privacy.calibration import make_plan, plan_from_dict
from shared.privacy.ledger import Receipt
from shared.privacy.plan import Target
from shared.protocol import (
    MESSAGE_TYPES,
    Header,
    MeasureTask,
    ProfileTask,
    StatisticsTask,
    TrainingTerms,
    TrainTask,
    TrendingTask,
    declined_record,
    finite_vector,
    header_to_dict,
    parse_header,
    parse_sealed,
    parse_task,
    receipt_part,
    release_of,
    sealed_record,
    task_digest,
    task_record,
    vector_length,
    vector_part,
)
from shared.recall.item_rules import NO_RULES, ItemRules

SPEC = EncoderSpec(text_width=5, rank=2, buckets=7)
PLAN = make_plan(
    Target(
        kind="deployment",
        unit="user",
        trust="distributed",
        epsilon=8.0,
        delta=1e-3,
        population=6,
        smallest_cohort=4,
        collusion=0.0,
        rounds=3,
        update_participations=3,
        measurement_participations=2,
        trending_participations=2,
        shares={"update": 0.65, "measurement": 0.15, "statistics": 0.05, "profile": 0.1, "trending": 0.05},
        update_dimension=SPEC.size,
        clip=0.5,
    )
)
HEADER = Header("run", 2, 1, PLAN, "c" * 64, SPEC)
POLICY = first_policy(PolicySection())
VALUES = np.random.default_rng(0).normal(size=SPEC.size).astype(np.float32)
RECEIPT = Receipt("a" * 64, 7, "b" * 64, 2, "c" * 128)
PRIOR = np.linspace(-1, 1, 7).astype(np.float32)
LINEAR = EncoderSpec(text_width=5, rank=2, buckets=7, kind="linear")
RULES = ItemRules(("i1",), ("i2",), {"i3": 18})
TASKS = {
    "statistics": StatisticsTask(HEADER),
    "profile": ProfileTask(replace(HEADER, encoder=LINEAR), 3, 20, PRIOR),
    "update": TrainTask(HEADER, POLICY, TrainingTerms("softmax", 1.0, 8, 4, 16), RULES, VALUES, PRIOR),
    "measurement": MeasureTask(HEADER, POLICY, (replace(POLICY, version=2),), (20, 60), NO_RULES, VALUES, PRIOR),
    "trending": TrendingTask(HEADER, 7, 40),
}


def over_the_wire(record):
    """As Flower sends it: every array through its bytes."""
    arrays = {n: Array(dtype=a.dtype, shape=a.shape, stype=a.stype, data=a.data) for n, a in record["arrays"].items()}
    return RecordDict({"task": ConfigRecord({"json": str(record["task"]["json"])}), "arrays": ArrayRecord(arrays)})


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_arrives_as_it_was_sent(kind):
    sent = TASKS[kind]
    got = parse_task(over_the_wire(task_record(sent)))
    assert type(got) is type(sent)
    assert got.header == sent.header
    assert release_of(got) == kind
    assert kind in MESSAGE_TYPES
    for name, value in vars(sent).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(got, name), value)
            assert getattr(got, name).flags.writeable  # torch warns of anything else
        else:
            assert getattr(got, name) == value


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("update", SPEC.size),
        ("statistics", 7 + 16),
        ("profile", 8 * 9 // 2),
        ("measurement", 9 + 1 + 7),
        ("trending", 40),
    ],
)
def test_the_length_of_an_answer_is_public(kind, length):
    assert vector_length(TASKS[kind]) == length


def test_an_update_of_the_linear_encoder_is_of_targets_alone():
    task = replace(TASKS["update"], header=replace(HEADER, encoder=LINEAR))
    assert vector_length(task) == 7 * 2 < LINEAR.size


def test_the_digest_is_over_all_that_a_task_says():
    task = TASKS["update"]
    nudged = VALUES.copy()
    nudged[3] = np.nextafter(nudged[3], np.float32(9))
    others = [
        task,
        replace(task, parameters=nudged),
        replace(task, prior=PRIOR[::-1].copy()),
        replace(task, policy=replace(POLICY, k=21)),
        replace(task, training=replace(task.training, negatives=17)),
        replace(task, rules=NO_RULES),
        *(replace(task, header=replace(HEADER, **c)) for c in ({"round": 3}, {"attempt": 2}, {"run": "other"})),
        TASKS["measurement"],
        TASKS["statistics"],
        TASKS["profile"],
        replace(TASKS["profile"], typical=21),
        replace(TASKS["profile"], width=4),
        replace(TASKS["profile"], prior=PRIOR[::-1].copy()),
        TASKS["trending"],
        replace(TASKS["trending"], window=8),
        replace(TASKS["trending"], items=41),
    ]
    digests = [task_digest(task_record(t)) for t in others]
    assert len(set(digests)) == len(others)
    assert digests[0] == task_digest(over_the_wire(task_record(task)))


def test_nothing_that_is_not_a_number_is_sent():
    with pytest.raises(ValueError, match="not JSON compliant"):
        task_record(replace(TASKS["update"], policy=replace(POLICY, exposure_price=float("nan"))))


def test_a_sealed_vector_arrives_as_it_was_sent():
    vector = np.array([1, -2, 2**31 - 1, -(2**31)], np.int32)
    record = sealed_record(vector, receipt_part(RECEIPT))
    assert list(record) == ["sealed", "receipt"]
    assert dict(record["receipt"]) == asdict(RECEIPT)
    assert np.array_equal(parse_sealed(record, 4), vector)


@pytest.mark.parametrize("vector", [np.arange(5, dtype=np.int32), np.zeros(0, np.uint32), np.ones((2, 3), ">i8")[::2]])
def test_a_vector_travels_byte_for_byte_as_flowers_own_array_of_it(vector):
    made, flowers = vector_part(vector), ArrayRecord({"vector": Array(vector)})
    assert dict(made) == dict(flowers)
    assert (made.object_id, made.count_bytes()) == (flowers.object_id, flowers.count_bytes())
    assert np.array_equal(made["vector"].numpy(), vector)


def test_what_came_over_the_wire_is_not_to_be_written_to_but_a_model_is_this_sides_own():
    sealed = parse_sealed(sealed_record(np.zeros(4, np.int32), receipt_part(RECEIPT)), 4)
    assert not sealed.flags.writeable
    assert finite_vector(Array(np.zeros(4, np.float32)), "parameters", 4).flags.writeable


def test_a_refusal_says_one_word_and_the_same_to_everything():
    record = declined_record()
    assert {name: dict(part) for name, part in record.items()} == {"status": {"code": "declined"}}
    assert parse_sealed(record, 4) is None


@pytest.mark.parametrize(
    "vector",
    [np.zeros(4, np.int64), np.zeros(4, np.float32), np.zeros(3, np.int32), np.zeros((4, 1), np.int32)],
    ids=["wide", "float", "short", "matrix"],
)
def test_any_other_vector_is_refused(vector):
    with pytest.raises(ProtocolError, match=r"sealed vector of .* expected int32 \(4,\)"):
        parse_sealed(sealed_record(vector, receipt_part(RECEIPT)), 4)


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"sealed": ArrayRecord()}),
        RecordDict({"status": ConfigRecord()}),
        RecordDict({"status": ConfigRecord({"code": "error", "text": "user 7 has 3 purchases"})}),
        RecordDict({"sealed": ConfigRecord({"vector": "x"})}),
    ],
    ids=range(5),
)
def test_what_is_neither_is_refused(record):
    with pytest.raises(ProtocolError, match="neither a sealed vector nor a refusal"):
        parse_sealed(record, 4)


GOOD = np.arange(4, dtype=np.int32)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_are_four_integers(data):
    raw = bytearray(Array(GOOD).data)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))]) if data.draw(st.booleans()) else bytes(raw)
    array = Array(dtype="int32", shape=(4,), stype="numpy.ndarray", data=cut)
    try:
        vector = parse_sealed(RecordDict({"sealed": ArrayRecord({"vector": array})}), 4)
    except ProtocolError:
        return
    assert (vector.dtype, vector.shape) == (np.int32, (4,))


def changed(change, kind="update"):
    record = task_record(TASKS[kind])
    fields = json.loads(record["task"]["json"])
    change(fields)
    return RecordDict({"task": ConfigRecord({"json": json.dumps(fields)}), "arrays": record["arrays"]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.update(code="x"), "task: fields"),
        (lambda f: f["header"].update(seed=1), "header: fields"),
        (lambda f: f["header"].pop("run"), "header: fields"),
        (lambda f: f["header"].update(run="x" * 201), r"header\.run: expected a text of 1 to 200 characters"),
        (lambda f: f["header"].update(round=-1), r"header\.round: expected a whole number of at least 0"),
        (lambda f: f["header"].update(attempt=0), r"header\.attempt: expected a whole number of at least 1"),
        (lambda f: f["header"]["encoder"].update(rank=0), r"header\.encoder"),
        (lambda f: f["header"]["encoder"].update(rank=2**27), r"header\.encoder"),
        (lambda f: f["header"]["plan"].update(x=1), "plan: expected exactly the fields"),
        (lambda f: f["policy"].update(k=5), r"policy\.k: 5"),
        (lambda f: f["training"].update(path="/etc"), "training: fields"),
        (lambda f: f["training"].update(learning_rate="1"), r"training\.learning_rate: '1', must be above 0"),
        (lambda f: f["training"].update(learning_rate=0), r"training\.learning_rate: 0"),
        (lambda f: f["training"].update(loss="x"), r"training\.loss: 'x'"),
        (lambda f: f["training"].update(context=4097), r"training\.context: 4097"),
        (lambda f: f["training"].update(targets=0), r"training\.targets: 0"),
        (lambda f: f["training"].update(negatives=True), r"training\.negatives: True"),
    ],
)
def test_a_refusal_names_the_field_and_what_would_be_right(change, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        parse_task(changed(change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        *((lambda f, v=v: f.update(width=v), r"width: .*, expected a whole number from 1 to 7") for v in (0, 8, -1)),
        *((lambda f, v=v: f.update(width=v), r"width: .*, expected a whole number") for v in (True, 3.0, "3", None)),
        *((lambda f, v=v: f.update(typical=v), r"typical: .*at least 1") for v in (0, -1, 2**28 + 1)),
        *(
            (lambda f, v=v: f.update(typical=v), r"typical: .*, expected a whole number")
            for v in (True, 20.0, "20", None)
        ),
        (lambda f: f.pop("typical"), "task: fields"),
        (lambda f: f.pop("width"), "task: fields"),
        (lambda f: f.update(policy={}), "task: fields"),
        (lambda f: f["header"]["encoder"].update(kind="other"), r"header\.encoder\.kind: 'other', expected one of"),
        (lambda f: f["header"]["encoder"].update(kind=["linear"]), r"header\.encoder\.kind"),
        (lambda f: f["header"]["encoder"].pop("kind"), r"header\.encoder"),
        (lambda f: f["header"]["encoder"].update(text_width=25_000), r"width: 25003 features make .* more than"),
    ],
)
def test_every_field_of_a_profile_task_is_checked(change, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        parse_task(changed(change, "profile"))


@pytest.mark.parametrize("field", ["window", "items"])
@pytest.mark.parametrize("value", [0, -1, True, 7.0, "7", None, [7], 2**28 + 1])
def test_every_field_of_a_trending_task_is_checked(field, value):
    with pytest.raises(ProtocolError, match=f"{field}: .*, expected a whole number from 1 to"):
        parse_task(changed(lambda said: said.update({field: value}), "trending"))


def test_a_window_of_more_than_ten_years_is_refused():
    parse_task(changed(lambda said: said.update(window=3650), "trending"))
    with pytest.raises(ProtocolError, match="from 1 to 3650"):
        parse_task(changed(lambda said: said.update(window=3651), "trending"))


def test_a_header_says_nothing_of_trending_where_its_plan_has_none():
    without = {name: value for name, value in header_to_dict(HEADER)["plan"].items() if name != "trending"}
    plan = plan_from_dict(without)
    assert "trending" not in header_to_dict(replace(HEADER, plan=plan))["plan"]
    assert parse_header(header_to_dict(replace(HEADER, plan=plan))) == replace(HEADER, plan=plan)


@pytest.mark.parametrize("values", [PRIOR[:-1], np.append(PRIOR, np.float32(0)), np.float64(PRIOR), PRIOR * np.nan])
def test_the_prior_of_a_profile_task_is_a_number_a_bucket(values):
    record = task_record(TASKS["profile"])
    with pytest.raises(ProtocolError, match="prior"):
        parse_task(RecordDict({"task": record["task"], "arrays": ArrayRecord({"prior": Array(values)})}))


def test_a_task_has_exactly_its_arrays():
    record = task_record(TASKS["update"])
    for arrays in ({}, {"parameters": Array(VALUES)}, dict(record["arrays"]) | {"seed": Array(PRIOR)}):
        with pytest.raises(ProtocolError, match="expected exactly"):
            parse_task(RecordDict({"task": record["task"], "arrays": ArrayRecord(arrays)}))
    with pytest.raises(ProtocolError, match="expected exactly"):
        parse_task(RecordDict({"task": task_record(TASKS["statistics"])["task"], "arrays": record["arrays"]}))
    with pytest.raises(ProtocolError, match="expected exactly"):
        parse_task(RecordDict({"task": task_record(TASKS["profile"])["task"], "arrays": record["arrays"]}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(TASKS)), way=st.lists(st.integers(0, 9), max_size=4), value=json_values)
def test_a_parser_raises_protocol_errors_and_nothing_else(kind, way, value):
    record = task_record(TASKS[kind])
    fields = deepcopy(json.loads(record["task"]["json"]))
    place = fields
    for step in way:
        names = sorted(place)
        name = names[step % len(names)]
        if not isinstance(place[name], dict) or not place[name]:
            break
        place = place[name]
    names = sorted(place)
    place[names[way[-1] % len(names) if way else 0]] = value
    text = ConfigRecord({"json": json.dumps(fields)})
    try:
        task = parse_task(RecordDict({"task": text, "arrays": record["arrays"]}))
    except ProtocolError:
        return
    assert vector_length(task) > 0

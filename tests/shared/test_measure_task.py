"""A measurement on the wire: shadows, activity thresholds and rules as data, each checked, and no more of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from shared.config import PolicySection, first_policy
from shared.encoder.spec import EncoderSpec
from shared.errors import ProtocolError
from shared.privacy.calibration import make_plan
from shared.privacy.plan import RELEASES, Target
from shared.protocol import Header, MeasureTask, layout_of, parse_task, task_digest, task_record, vector_length
from shared.recall.item_rules import ItemRules
from shared.recall.report import LARGEST_SHADOWS, SCALARS, ReportLayout

SPEC = EncoderSpec(text_width=5, rank=2, buckets=7)
POLICY = first_policy(PolicySection())
SHADOWS = tuple(replace(POLICY, version=2, depth=depth) for depth in (100, 400))


def plan(trust="distributed"):
    return make_plan(
        Target(
            kind="deployment",
            unit="user",
            trust=trust,
            epsilon=8.0,
            delta=1e-3,
            population=6,
            smallest_cohort=4,
            collusion=0.0,
            rounds=3,
            update_participations=3,
            measurement_participations=2,
            shares={**dict.fromkeys(RELEASES, 0.0), "update": 0.8, "measurement": 0.2},
            update_dimension=SPEC.size,
            clip=0.5,
        )
    )


def task(trust="distributed", **changes):
    values = np.random.default_rng(0).normal(size=SPEC.size).astype(np.float32)
    header = Header("run", 2, 1, plan(trust), "c" * 64, SPEC)
    prior = np.linspace(-1, 1, 7).astype(np.float32)
    first = MeasureTask(header, POLICY, SHADOWS, (20, 60), ItemRules(("a",), (), {"b": 18}), values, prior)
    return replace(first, **changes)


def told(**changes):
    """A task whose text says something else."""
    record = task_record(task())
    said = json.loads(str(record["task"]["json"])) | changes
    text = json.dumps({name: value for name, value in said.items() if value is not None})
    return RecordDict({"task": ConfigRecord({"json": text}), "arrays": record["arrays"]})


@pytest.mark.parametrize("shadows", [(), SHADOWS, SHADOWS[:1] * LARGEST_SHADOWS], ids=len)
@pytest.mark.parametrize("activity", [(0, 0), (1, 1), (20, 60)])
def test_a_measurement_arrives_as_it_was_sent(shadows, activity):
    sent = task(shadows=shadows, activity=activity)
    got = parse_task(task_record(sent))
    assert (got.policy, got.shadows, got.activity, got.rules) == (POLICY, shadows, activity, sent.rules)
    assert np.array_equal(got.parameters, sent.parameters)


def test_the_digest_is_over_all_that_a_measurement_says():
    others = [task(), task(shadows=SHADOWS[:1]), task(activity=(20, 61)), task(rules=ItemRules())]
    assert len({task_digest(task_record(other)) for other in others}) == len(others)


@pytest.mark.parametrize("trust", ["distributed", "central"])
@pytest.mark.parametrize("shadows", [(), SHADOWS], ids=len)
def test_layout_and_length_follow_from_the_task_alone(trust, shadows):
    one = task(trust, shadows=shadows)
    assert layout_of(one) == ReportLayout(20, 7, len(shadows), trust == "central")
    assert vector_length(one) == layout_of(one).length == len(SCALARS) + len(shadows) + 7


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shadows": [None]}, "policy: expected exactly the fields"),
        ({"shadows": {}}, "expected a list of at most 8 policies"),
        ({"shadows": "12345678"}, "expected a list of at most 8 policies"),
        ({"activity": [0, 5]}, "0 and 5, expected 1 <= low <= high, or 0 and 0"),
        ({"activity": [9, 5]}, "9 and 5, expected"),
        ({"activity": [-4, 5]}, "-4 and 5, expected"),
        ({"activity": [1, 1 << 40]}, "expected 1 <= low <= high"),
        ({"activity": [1.0, 5]}, "two whole numbers"),
        ({"activity": [True, True]}, "two whole numbers"),
        ({"activity": [5]}, "two whole numbers"),
        ({"activity": 5}, "two whole numbers"),
        ({"rules": {"blocked": ["a"]}}, "rules"),
        ({"shadows": None}, "fields"),
        ({"activity": None}, "fields"),
        ({"seed": 3}, "fields"),
    ],
    ids=str,
)
def test_what_is_none_is_refused(changes, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        parse_task(told(**changes))


def test_too_many_shadows_are_refused():
    with pytest.raises(ProtocolError, match="at most 8"):
        parse_task(task_record(task(shadows=SHADOWS[:1] * (LARGEST_SHADOWS + 1))))


def test_a_shadow_with_another_k_is_no_neighbour():
    with pytest.raises(ProtocolError, match="a list of 10 items beside one of 20"):
        parse_task(task_record(task(shadows=(replace(POLICY, k=10),))))


@pytest.mark.parametrize("where", ["policy", "shadows"])
def test_prices_of_other_buckets_than_there_are_are_refused(where):
    wrong = replace(POLICY, exposure_prices=(1,) * 6)
    one = task(policy=wrong) if where == "policy" else task(shadows=(wrong,))
    with pytest.raises(ProtocolError, match="exposure_prices"):
        parse_task(task_record(one))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda s: st.lists(s, max_size=3)))
def test_hostile_values_raise_one_error_or_none(value):
    for name in ("shadows", "activity", "rules"):
        record = task_record(task())
        said = json.loads(str(record["task"]["json"])) | {name: value}
        hostile = RecordDict({"task": ConfigRecord({"json": json.dumps(said)}), "arrays": record["arrays"]})
        try:
            parse_task(hostile)
        except ProtocolError:
            continue
        assert (name, value) == ("shadows", [])

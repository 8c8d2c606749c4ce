"""A client against a hostile server: whatever it is sent, ``declined`` is all that crosses."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

import client.host
from client.host import Host, answer, answer_all
from client.store import ClientStore
from shared.encoder.spec import EncoderSpec, unpack
from shared.privacy.ledger import read_ledger
from shared.privacy.plan import plan_to_dict
from shared.protocol import parse_sealed, task_digest, task_record, vector_length

ITEMS = 48
SERVER = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"  # key of conftest.SERVER


def declined(record) -> bool:
    """Exactly the refusal, nothing beside it."""
    return list(record) == ["status"] and dict(record["status"]) == {"code": "declined"}


def events(host, kind):
    return [line.event for line in read_ledger(host.path) if line.event["type"] == kind]


def spent(host):
    """(client, kind) -> intents, whatever the run."""
    return {(c, kind): n for c, spend in host.gate.spends.items() for (_, kind), n in spend.used.items()}


def said(record):
    return json.loads(record.config_records["task"]["json"])


def rebuilt(record, fields=None, arrays=None):
    """The task with other public fields or arrays."""
    text = json.dumps(said(record) if fields is None else fields)
    kept = dict(record.array_records["arrays"]) if arrays is None else arrays
    return RecordDict({"task": ConfigRecord({"json": text}), "arrays": ArrayRecord(kept)})


def both(record):
    return {"1": record, "2": record}


def put(fields, path, value):
    *way, last = path.split(".")
    place = fields
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value


HOSTILE_FIELDS = [
    ("header", ...),
    ("header", None),
    ("header", []),
    ("release", "weights"),
    ("release", ["update"]),
    ("code", "import os; os.system('id')"),
    ("header.module", "os.path"),
    ("header.seed", 1),
    ("header.run", 7),
    ("header.run", ""),
    ("header.run", "x" * 10_000_000),
    ("header.catalogue", "../../etc/passwd"),
    ("header.catalogue", "x" * 201),
    ("header.round", -1),
    ("header.round", 1.5),
    ("header.round", True),
    ("header.round", 10**400),
    ("header.attempt", 0),
    ("header.encoder.rank", 0),
    ("header.encoder.rank", 1 << 40),
    ("header.encoder.buckets", 47),
    ("header.encoder.buckets", 1 << 27),
    ("header.encoder.text_width", "16"),
    ("header.encoder.extra", 1),
    ("header.plan", ...),
    ("header.plan.trust", "nobody"),
    ("header.plan.unit", "interaction"),
    ("header.plan.update.noise_multiplier", 0.0),
    ("header.plan.update.noise_multiplier", float("nan")),
    ("header.plan.update.clip", float("inf")),
    ("header.plan.update.steps", 1 << 40),
    ("header.plan.update.participations", 10**6),
    ("header.plan.smallest_cohort", 10**9),
    ("policy", ...),
    ("policy.k", 10**9),
    ("policy.depth", 0.5),
    ("policy.weights", {"text": float("nan")}),
    ("policy.features", ["code"]),
    ("policy.similarity.text", "eval"),
    ("training.loss", "os.system"),
    ("training.learning_rate", "1.0"),
    ("training.learning_rate", float("nan")),
    ("training.learning_rate", True),
    ("training.context", 10**12),
    ("training.targets", -1),
    ("training.negatives", 2.0),
    ("training.extra", 1),
    ("training", ...),
]


# A plan that keeps its own promise, but is not the one that was pinned.
OTHER_PLANS = [("header.plan.epsilon", 9.0), ("header.plan.epsilon", None), ("header.plan.update.clip", 5.0)]


@pytest.mark.parametrize(
    ("path", "value", "pinned"),
    [(*field, pinned) for field in HOSTILE_FIELDS for pinned in (False, True)]
    + [(*field, True) for field in OTHER_PLANS],
    ids=lambda x: str(x)[:40],
)
def test_a_hostile_field_is_declined_and_costs_nothing(path, value, pinned, host, task, history, message):
    one = host([history(1), history(2)])
    good = task_record(task())
    if pinned:
        assert not any(map(declined, answer_all(one, both(message(good))).values()))
    fields = deepcopy(said(good))
    fields["header"]["round"] = 2  # else it is a replay
    put(fields, path, value)
    before = spent(one)
    answers = answer_all(one, both(message(rebuilt(good, fields))))
    assert sorted(answers) == ["1", "2"]
    assert all(map(declined, answers.values()))
    assert spent(one) == before
    if pinned:
        assert [e["client"] for e in events(one, "decline")] == ["1", "2"]
        assert all(e["clause"] and len(e["clause"]) < 400 for e in events(one, "decline"))


def pickled():
    array = Array(np.zeros(3, np.float32))
    return Array(dtype="float32", shape=(3,), stype=array.stype, data=pickle.dumps(np.zeros(3, np.float32)))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/fedrecall-bomb",)  # noqa: S108 - must never come to be


def object_array():
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    return Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())


def lying(length):
    """The header of a vector of the right length, and almost nothing behind it."""
    return Array(dtype="float32", shape=(length,), stype="numpy.ndarray", data=Array(np.zeros(length, "f4")).data[:200])


SIZE = EncoderSpec(16, 16, ITEMS).size
HOSTILE_ARRAYS = {
    "NaN": lambda: Array(np.full(SIZE, np.nan, np.float32)),
    "infinity": lambda: Array(np.full(SIZE, np.inf, np.float32)),
    "doubles": lambda: Array(np.zeros(SIZE)),
    "integers": lambda: Array(np.zeros(SIZE, np.int32)),
    "big-endian": lambda: Array(np.zeros(SIZE, ">f4")),
    "too short": lambda: Array(np.zeros(SIZE - 1, np.float32)),
    "a matrix": lambda: Array(np.zeros((SIZE, 1), np.float32)),
    "a column of the right bytes": lambda: Array(np.zeros((1, SIZE), np.float32)),
    "nothing": lambda: Array(dtype="float32", shape=(SIZE,), stype="numpy.ndarray", data=b""),
    "cut off": lambda: lying(SIZE),
    "a pickle": pickled,
    "pickled objects": object_array,
    "a huge header": lambda: Array(
        dtype="float32",
        shape=(SIZE,),
        stype="numpy.ndarray",
        data=b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(128),
    ),
    "torch": lambda: Array(dtype="float32", shape=(SIZE,), stype="torch.Tensor", data=b"PK"),
}


@pytest.mark.parametrize("how", HOSTILE_ARRAYS)
@pytest.mark.parametrize("name", ["parameters", "prior", "extra"])
def test_hostile_arrays_are_declined_and_run_nothing(how, name, host, task, history, message):
    one = host([history(1)])
    good = task_record(task())
    arrays = dict(good.array_records["arrays"]) | {name: HOSTILE_ARRAYS[how]()}
    assert declined(answer(one, "1", message(rebuilt(good, arrays=arrays))))
    assert not os.path.exists("/tmp/fedrecall-bomb")  # noqa: S108, PTH110 - see above
    assert spent(one) == {}


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"task": ConfigRecord({"json": "{}"})}),
        RecordDict({"task": ConfigRecord({"json": b"{}"}), "arrays": ArrayRecord()}),
        RecordDict({"task": ConfigRecord({"json": "["}), "arrays": ArrayRecord()}),
        RecordDict({"task": ConfigRecord({"json": "[" * 100_000}), "arrays": ArrayRecord()}),
        RecordDict({"task": ConfigRecord({"json": "9" * 5000}), "arrays": ArrayRecord()}),
        RecordDict({"task": ConfigRecord({"json": '"\\ud800"'}), "arrays": ArrayRecord()}),
        RecordDict({"arrays": ConfigRecord(), "task": ArrayRecord()}),
    ],
    ids=range(8),
)
def test_what_is_no_task_is_declined(record, host, history):
    assert declined(answer(host([history(1)]), "1", record))


def test_a_client_that_is_not_here_is_declined(host, task, history, message):
    assert declined(answer(host([history(1)]), "99", message(task())))


def test_a_task_is_answered_once_however_often_it_comes(host, task, history, message):
    one = host([history(1)])
    first = answer(one, "1", message(task()))
    assert not declined(first)
    for again in (message(task()), message(task(), tip="6" * 64), message(task(catalogue=one.gate.catalogue))):
        assert declined(answer(one, "1", again))
    assert len(events(one, "intent")) == 1
    assert events(one, "decline")[0]["clause"] == "replay: update of round 1, attempt 1, was paid"
    assert not declined(answer(one, "1", message(task(attempt=2))))  # a new intent, a new charge, new noise


def test_attempts_are_paid_for_until_nothing_is_left(host, task, history, message):
    one = host([history(1)])
    answers = [answer(one, "1", message(task(attempt=attempt))) for attempt in range(1, 6)]
    assert [declined(a) for a in answers] == [False, False, False, True, True]
    assert len(events(one, "intent")) == 3
    assert events(one, "decline")[0]["clause"] == "update: all 3 participations are used up"


def test_messages_of_two_tasks_are_never_one_batch(host, task, history, message):
    one = host([history(1), history(2)])
    with pytest.raises(RuntimeError, match="not of one task"):
        answer_all(one, {"1": message(task()), "2": message(task())})
    assert spent(one) == {}


def test_a_restart_does_not_refill_the_budget(host, task, history, message):
    one = host([history(1)])
    for attempt in (1, 2):
        answer(one, "1", message(task(attempt=attempt)))
    one.close()
    again = host([history(1)])
    assert [declined(answer(again, "1", message(task(attempt=n)))) for n in (2, 3, 4)] == [True, False, True]
    assert len(events(again, "intent")) == 3


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"catalogue": "0" * 64}, "catalogue 000000000000 is not here"),
        ({"epsilon": 4.0}, "the plan changed"),
        ({"epsilon": None}, "the plan changed"),
    ],
)
def test_another_catalogue_or_plan_is_declined_and_only_the_ledger_says_why(
    changes, clause, host, task, plan, history, message
):
    one = host([history(1)])
    assert not declined(answer(one, "1", message(task())))
    if "epsilon" in changes:
        changes = {"plan": plan(**changes)}
    assert declined(answer(one, "1", message(task(round=2, **changes))))
    assert clause in events(one, "decline")[0]["clause"]


@pytest.mark.parametrize("steps", [1, 3])
def test_under_local_trust_the_plan_fixes_the_local_steps(steps, host, task, plan, policy, history, message):
    local = plan(trust="local", local_steps=2)
    one = host([history(1)])
    assert not declined(answer(one, "1", message(task(plan=local, policy=policy(local_iterations=2)))))
    assert declined(answer(one, "1", message(task(round=2, plan=local, policy=policy(local_iterations=steps)))))
    assert spent(one) == {("1", "update"): 1}
    assert "the plan accounts for 2" in events(one, "decline")[0]["clause"]


@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_elsewhere_local_steps_are_the_policys(trust, host, task, plan, policy, history, message):
    one = host([history(1)])
    record = message(task(plan=plan(trust=trust), policy=policy(local_iterations=3)))
    assert not declined(answer(one, "1", record))


@pytest.mark.parametrize("kind", [MemoryError, KeyError, RuntimeError, ZeroDivisionError])
@pytest.mark.parametrize("where", ["client.contributions.statistics_rows", "client.host.release"])
def test_an_error_of_this_sides_own_never_crosses(kind, where, host, task, history, monkeypatch, message):
    def broken(*_args, **_more):
        raise kind("user 7 bought a wheelchair")

    one = host([history(1)])
    monkeypatch.setattr(where, broken)
    assert declined(answer(one, "1", message(task("statistics"))))
    assert "wheelchair" in events(one, "decline")[0]["clause"]  # on this side


def test_a_server_cannot_fill_the_ledger_with_its_text(host, task, history, monkeypatch, message):
    def broken(*_args, **_more):
        raise ValueError("x" * 10**7)

    one = host([history(1)])
    answer(one, "1", message(task("statistics")))
    monkeypatch.setattr(client.host, "parse_task", broken)
    assert declined(answer(one, "1", message(task())))
    assert len(events(one, "decline")[0]["clause"]) == client.host.LONGEST_CLAUSE


def test_a_shadow_that_switches_on_what_consent_does_not_name_is_declined_and_costs_nothing(
    host, task, policy, history, message, consent
):
    one = host([history(1)], consents={"1": consent(features=("text", "popularity"))})
    meek = policy(features=("text",))
    for attempt, shadows in enumerate([(policy(features=("lexical",)),), (meek, policy())], 1):
        asked = task("measurement", policy=meek, shadows=shadows, attempt=attempt)
        assert declined(answer(one, "1", message(asked)))
    assert spent(one) == {}
    clauses = [event["clause"] for event in events(one, "decline")]
    assert clauses == [f"consent.features: {more} may not be switched on" for more in ("lexical", "lexical, category")]
    agreed = task("measurement", policy=meek, shadows=(policy(features=("popularity",)),), attempt=3)
    assert not declined(answer(one, "1", message(agreed)))


def test_a_full_disk_declines_and_the_budget_stays_right(host, task, history, message, monkeypatch):
    one = host([history(1)])
    answer(one, "1", message(task(attempt=1)))

    def full(_fd, _data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shared.privacy.ledger.os.write", full)
        assert declined(answer(one, "1", message(task(attempt=2))))
    assert declined(answer(one, "1", message(task(attempt=3))))  # closed until the process starts again
    one.close()
    again = host([history(1)])
    assert [declined(answer(again, "1", message(task(attempt=n)))) for n in (4, 5, 6)] == [False, False, True]


def poisoned(values, spec):
    values = values.copy()
    unpack(spec, values)["identity"][:] = np.float32(3e38)
    return values


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
@pytest.mark.parametrize("trust", ["distributed", "local", "central"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_answer_tells_an_empty_history_from_a_full_one_by_its_form(kind, trust, host, task, plan, history, message):
    chosen = task(kind, plan=plan(trust=trust))
    hostile = (
        chosen
        if kind in {"statistics", "profile", "trending"}
        else replace(chosen, parameters=poisoned(chosen.parameters, chosen.header.encoder))
    )
    one = host([history(1, 0, 0), history(2, 48, 5), history(3, 1, 1), history(4, 1, 0)])
    for attempt, asked in enumerate((chosen, hostile)[: 1 if hostile is chosen else 2], 1):
        retried = replace(asked, header=replace(asked.header, attempt=attempt))
        answers = answer_all(one, dict.fromkeys(one.stores, message(retried)))
        assert len({(len(a.array_records["sealed"]["vector"].data), tuple(a)) for a in answers.values()}) == 1
        for each in answers.values():
            assert parse_sealed(each, vector_length(asked)) is not None


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_sum_does_not_depend_on_how_users_are_dealt_to_clients(
    kind, steps, host, task, plan, policy, history, message
):
    """943 clients with one user and 2 with 472 give the same integers before noise, bit for bit."""
    histories = [history(seed, seed % 45, min(seed % 45, seed % 4)) for seed in range(46)]
    chosen = policy(local_iterations=steps, features=("text", "lexical", "category", "popularity"))
    record = message(task(kind, plan=plan(epsilon=None), policy=chosen))
    sums = []
    for per_client in (1, 7, 23, 46):
        one = host(histories, per_client, name=f"by-{per_client}")
        answers = {}
        for start in range(0, len(one.stores), 20):
            answers |= answer_all(one, dict.fromkeys(list(one.stores)[start : start + 20], record))
        vectors = [a.array_records["sealed"]["vector"].numpy().astype(np.int64) for a in answers.values()]
        assert len(vectors) == -(-46 // per_client)
        sums.append(np.sum(vectors, axis=0))
    assert sums[0].any()
    for other in sums[1:]:
        assert np.array_equal(sums[0], other)


def test_a_seeded_replay_gives_the_same_bytes_and_is_charged_once(host, task, history, message):
    record = message(task())
    one = host([history(1)])
    answer(one, "1", message(task("statistics")))
    lines = one.ledger.count
    first = answer(one, "1", record)
    one.close()
    again = host([history(1)], replay_from=lines)
    second = answer(again, "1", record)
    sealed = [a.array_records["sealed"]["vector"].data for a in (first, second)]
    assert sealed[0] == sealed[1]
    assert spent(again) == {("1", "statistics"): 1, ("1", "update"): 1}
    assert len(events(again, "intent")) == 2


def test_a_ledger_begins_with_its_key_and_the_first_task_of_a_run_pins_its_plan(host, task, history, message):
    one, chosen = host([history(1)]), task()
    lines = [line.event for line in read_ledger(one.path)]
    assert [(e["type"], sorted(e)) for e in lines] == [("opened", ["key", "type"])]
    answer(one, "1", message(chosen))
    answer(one, "1", message(task(round=2)))
    assert [line.event["type"] for line in read_ledger(one.path)] == [
        *("opened", "plan", "intent", "result", "head"),
        *("intent", "result", "head"),
    ]
    (pinned,) = events(one, "plan")
    assert pinned["plan"] == plan_to_dict(chosen.header.plan)
    assert (pinned["run"], pinned["catalogue"], pinned["server"]) == ("run", one.gate.catalogue, SERVER)


def test_an_intent_names_the_servers_ledger_the_task_and_the_day(host, task, history, message):
    one, record = host([history(1)]), message(task())
    answer(one, "1", record)
    (intent,) = events(one, "intent")
    assert (intent["server"], intent["task"], intent["day"]) == ("5" * 64, task_digest(record), "2026-03-01")


# --- the one-off second moment of profiles (encoder linear)


def linear(task, kind, **changes):
    """A task of a linear encoder: it reads the compact texts."""
    spec = EncoderSpec(16, 4, ITEMS, "linear")
    if kind == "update":
        changes["values"] = np.random.default_rng(1).normal(0, 0.1, spec.size).astype(np.float32)
    return task(kind, encoder=spec, **changes)


def test_a_profile_is_one_release_through_the_one_door(host, task, history, message):
    """Intent on disk before, charged to everybody alike, one a plan; the second is declined and changes nothing."""
    one, chosen = host([history(1), history(2, 0, 0)]), linear(task, "profile", round=0)
    answers = answer_all(one, both(message(chosen)))
    for each in answers.values():
        assert parse_sealed(each, (8 + 16) * (8 + 17) // 2).any()  # noise, whatever the history
    assert spent(one) == {("1", "profile"): 1, ("2", "profile"): 1}
    assert [e["type"] for e in (line.event for line in read_ledger(one.path))][2:] == [
        *("intent", "intent"),
        *("result", "result", "head"),
    ]
    assert {e["release"] for e in events(one, "intent")} == {"profile"}
    again = replace(chosen, header=replace(chosen.header, attempt=2))
    assert all(map(declined, answer_all(one, both(message(again))).values()))
    assert spent(one) == {("1", "profile"): 1, ("2", "profile"): 1}
    assert {e["clause"] for e in events(one, "decline")} == {"profile: all 1 participations are used up"}


def test_a_plan_without_a_profile_release_gives_none(host, task, plan, history, message):
    made = plan(shares={"update": 0.8, "measurement": 0.15, "statistics": 0.05, "profile": 0.0})
    one = host([history(1)])
    assert declined(answer(one, "1", message(linear(task, "profile", plan=made))))
    assert spent(one) == {}


def test_what_a_profile_says_is_the_packed_second_moment_of_the_visible_history(
    host, task, plan, history, message, catalogue
):
    from shared.encoder.profile import feature_map, packed, profiles

    chosen, one = linear(task, "profile", plan=plan(epsilon=None)), history(1)
    sealed = parse_sealed(answer(host([one]), "1", message(chosen)), vector_length(chosen))
    features = feature_map(catalogue.groups["compact"], np.arange(ITEMS), chosen.prior, chosen.width, chosen.typical)
    (row,) = packed(profiles(features, [one]))
    assert sealed / chosen.header.plan.profile.steps == pytest.approx(row, abs=1e-4)


def test_an_update_of_the_linear_encoder_is_of_targets_alone(host, task, plan, history, message):
    chosen = linear(task, "update", plan=plan(epsilon=None))
    sealed = parse_sealed(answer(host([history(1)]), "1", message(chosen)), ITEMS * 4)
    assert sealed.any()


@pytest.mark.parametrize("kind", ["update", "profile"])
def test_a_catalogue_without_the_vectors_that_an_encoder_reads_is_a_refusal(
    kind, host, task, history, message, catalogue
):
    groups = {name: rows for name, rows in catalogue.groups.items() if name != "compact"}
    poor = replace(catalogue, groups=groups)
    one = host([history(1)])
    vars(one)["catalogue"] = poor
    assert declined(answer(one, "1", message(linear(task, kind))))
    assert spent(one) == {}


# --- many clients, of which few are asked


class Town(Mapping):
    """A million clients that are made when somebody asks for them."""

    def __init__(self, make):
        self.make, self.asked = make, []

    def __getitem__(self, client):
        if not client.isdigit() or not 1 <= int(client) <= len(self):
            raise KeyError(client)
        self.asked.append(client)
        return self.make(client)

    def __iter__(self):
        raise AssertionError("everybody is listed")

    def __len__(self):
        return 1_000_000


@pytest.fixture
def town(catalogue, randomness, consent, history, tmp_path):
    """``town(**consent)``: a host of a million clients, and its stores."""
    opened = []

    def make(**changes):
        stores = Town(lambda client: ClientStore(client, (f"u{client}",), (history(int(client) % 7 + 1),)))
        agreed, key = consent(**changes), Ed25519PrivateKey.from_private_bytes(bytes(32))
        given = {
            "consents": Town(lambda _client: agreed),
            "clock": lambda: date(2026, 3, 1),
            "identity": lambda _client: key,
        }
        opened.append(Host(stores, catalogue, tmp_path / "ledger.jsonl", key, randomness, masked=False, **given))
        return opened[-1], stores

    yield make
    for each in opened:
        each.close()


def test_of_a_million_clients_only_those_that_are_asked_are_looked_at(town, task, message):
    host, stores = town()
    assert stores.asked == []
    sent = message(task("statistics"))
    answers = answer_all(host, dict.fromkeys(["7", "999999", "1000001"], sent))
    assert [declined(answers[client]) for client in ("7", "999999", "1000001")] == [False, False, True]
    assert set(stores.asked) == {"7", "999999"}
    assert len(stores.asked) <= 4
    assert set(host.gate.spends) == {"7", "999999"}


def test_a_store_made_when_asked_for_answers_as_one_that_was_there(town, host, task, message, history):
    asked = task("statistics")
    made, there = town()[0], host([history(2)], name="there")
    (one,) = answer_all(made, {"1": message(asked)}).values()
    (two,) = answer_all(there, {"1": message(asked)}).values()
    assert one["sealed"]["vector"].data == two["sealed"]["vector"].data


def test_behaviour_is_left_out_by_the_consent_in_force_when_it_is_asked_for(
    host, task, plan, message, history, consent
):
    asked, views = task("statistics", plan=plan(epsilon=None)), consent(behaviour=("view",))

    def vector(one):
        return parse_sealed(answer(one, "1", message(asked)), vector_length(asked)).tolist()

    changed = host([history(1)])
    changed.gate.consents["1"] = views
    from_the_start = host([history(1)], name="narrow", consents={"1": views})
    assert vector(changed) == vector(from_the_start) != vector(host([history(1)], name="wide"))

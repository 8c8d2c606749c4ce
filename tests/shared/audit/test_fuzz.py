"""Whatever stands in a ledger, an audit ends with a report: it never crashes, and never passes what was changed."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import asdict

import pytest

from shared.audit.reading import read_evidence
from shared.audit.verify import verify
from shared.config import PolicySection, first_policy
from shared.errors import FedrecallError, LedgerError
from shared.policy.control import decide
from shared.policy.memory import Memory, memory_to_dict
from shared.policy.orders import proposal_to_dict
from shared.policy.recall_policy import policy_to_dict
from shared.policy.sight import Seen, Sight, Targets, sight_to_dict
from shared.privacy.chain import GENESIS, seal_line, sign_head
from simulations.benchmarks.audit import Plan, signer_of, write_run

HOSTILE = (
    None,
    True,
    -1,
    0,
    1,
    1.5,
    -0.0,
    1e308,
    5e-324,
    2**53 + 1,
    2**70,
    10**400,
    "",
    "x" * 300,
    "\ud800",
    "\x00",
    "update",
    "deployment",
    "ab" * 32,
    "1970-01-01",
    [],
    [[]],
    ["1", "1"],
    {},
    {"": []},
)


def deep(levels=2000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def a_decision(round_):
    """Of the controller ``rules``, with something of everything in its sight."""
    policy = first_policy(PolicySection())
    sight = Sight(Seen(0.4, 0.01), None, Seen(0.2, 0.02), None, (), (900, 40, -3), 12.5, 2000.0, 20)
    targets = Targets(recall=0.5, coverage=0.4, items=30, fairness=0.5)
    made = decide(round_, "rules", policy, Memory(policy), sight, targets, last=False, pending=None, approval=True)
    return {
        "type": "decision",
        "round": round_,
        "controller": "rules",
        "approval": True,
        "targets": asdict(targets),
        "last": False,
        "estimate": {"recall@20": {"value": 0.4, "half_width": 0.01}},
        "sight": sight_to_dict(sight),
        "memory": memory_to_dict(Memory(policy)),
        "before": policy_to_dict(policy),
        "after": policy_to_dict(made.step.policy),
        "decision": made.step.decision,
        "reason": made.step.reason,
        "proposal": None if made.proposal is None else proposal_to_dict(made.proposal),
    }


def an_order(round_):
    policy = policy_to_dict(first_policy(PolicySection()))
    memory = memory_to_dict(Memory(first_policy(PolicySection())))
    said = {
        "type": "order",
        "round": round_,
        "file": "a.json",
        "order": None,
        "outcome": "refused",
        "reason": "no JSON",
    }
    return {**said, "before": policy, "after": policy, "pending": None, "memory": memory}


def sealed_again(events, signer):
    """The whole chain, by whoever has the key: what a forging operator writes."""
    lines, tip = [], GENESIS
    for number, event in enumerate(events, 1):
        head = event.get("type") == "head" and isinstance(event.get("round"), int)
        made = {**event, "signature": sign_head(signer, number, tip, event["round"]).signature} if head else event
        raw, tip = seal_line(number, tip, made, "forger")
        lines.append(raw)
    return b"".join(lines)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A run's files as bytes, with every type of entry in them; a key for everybody."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    write_run(folder, Plan(rounds=4, clients=6, cohort=4))
    raw = {name: path.read_bytes() for name, path in ledgers(folder).items()}
    events = {name: [json.loads(line)["event"] for line in content.splitlines()] for name, content in raw.items()}
    events["ledger.jsonl"][7:7] = [a_decision(2), an_order(2)]
    home = next(name for name in events if name != "ledger.jsonl")
    events[home].insert(2, {"type": "decline", "client": "0", "clause": "consent.rho: spent"})
    events[home].append({**events[home][2], "run": "bench", "round": 4, "release": "update"})
    return events


def ledgers(folder):
    paths = [folder / "ledger.jsonl", *(folder / "home" / "clients").glob("*/ledger.jsonl")]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def owner_of(name):
    return signer_of("server" if name == "ledger.jsonl" else f"client {name.split('/')[2]}")


def spots(value, path=()):
    """Every place in a tree of JSON."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from spots(part, (*path, name))


def with_other_bytes(raw, rng):
    """A few bytes or lines are not what they were."""
    lines = raw.splitlines(keepends=True)
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(7)
    if what == 0:
        del lines[place]
    elif what == 1:
        lines[place], lines[other] = lines[other], lines[place]
    elif what == 2:
        lines.insert(place, lines[other])
    elif what == 3:
        return raw[: rng.randrange(len(raw))]
    else:
        made = bytearray(raw)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(made))
            made[at : at + rng.randrange(2)] = bytes([rng.randrange(256)]) * (what - 3)
        return bytes(made)
    return b"".join(lines)


def with_other_fields(events, rng):
    """A few fields are not what they were, and whoever has the key seals it all again."""
    events = copy.deepcopy(events)
    for _ in range(rng.choice((1, 1, 2, 5))):
        number = rng.randrange(len(events))
        path = rng.choice(list(spots(events[number])))
        if not path:
            events[number] = dict(rng.choice(events))
            continue
        *above, leaf = path
        parent = events[number]
        for name in above:
            parent = parent[name]
        if rng.random() < 0.2:
            del parent[leaf]
        else:
            parent[leaf] = rng.choice(HOSTILE) if rng.random() < 0.98 else deep()
    return events


def changed(clean, name, rng):
    """One ledger's bytes after a change; None = no ledger can say so."""
    if rng.random() < 0.4:
        return with_other_bytes(sealed_again(clean[name], owner_of(name)), rng)
    try:
        return sealed_again(with_other_fields(clean[name], rng), owner_of(name))
    except (LedgerError, ValueError, RecursionError):
        return None


def audited(clean, folder, seed):
    """The report on a run of which one ledger was changed; None = nothing was, or it is refused."""
    rng = random.Random(seed)
    name = rng.choice(["ledger.jsonl", rng.choice(list(clean))])
    made = changed(clean, name, rng)
    raw = {other: sealed_again(events, owner_of(other)) for other, events in clean.items()}
    if made is None or made == raw[name]:
        return None
    for other, content in {**raw, name: made}.items():
        path = folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        evidence = read_evidence(folder)
    except FedrecallError:  # a sentence to the auditor, no traceback
        return None
    return verify(evidence)


def test_the_run_that_is_changed_is_what_every_check_of_the_chain_can_read(clean, tmp_path):
    for name, events in clean.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sealed_again(events, owner_of(name)))
    evidence = read_evidence(tmp_path)
    assert evidence.reading == ()
    assert [log.broken for log in (evidence.server, *evidence.clients)] == [None] * 7


@pytest.mark.parametrize("part", range(5))
def test_no_change_of_a_ledger_crashes_an_audit_or_passes_it(clean, tmp_path, part):
    for seed in range(40 * part, 40 * (part + 1)):
        report = audited(clean, tmp_path, seed)
        assert report is None or report.outcome != "pass", seed


@pytest.mark.slow
@pytest.mark.parametrize("part", range(100))
def test_ten_thousand_changes_crash_no_audit(clean, tmp_path, part):
    for seed in range(1000 + 100 * part, 1000 + 100 * (part + 1)):
        report = audited(clean, tmp_path, seed)
        assert report is None or report.outcome != "pass", seed

"""A small clean run as an audit sees it, made by hand; tests change one thing in it and say what must be found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.audit.evidence import Charge, ClientLog, Evidence, Head, Payment, Pin, Printed, Sealed, ServerLog, Sum
from shared.privacy.accounting import ACCOUNTANT
from shared.privacy.calibration import make_plan
from shared.privacy.ledger import create_ledger, public_hex
from shared.privacy.plan import PrivacyPlan, Target, claims, epsilon_by_kind

CLIENTS = tuple(str(number) for number in range(1, 11))
KEYS = ("ab" * 32, "cd" * 32)
COUNTS = {"statistics": 1, "update": 2, "measurement": 1}


def small_plan(**changes) -> PrivacyPlan:
    target = Target(
        kind="simulation",
        unit="user",
        trust="distributed",
        epsilon=8.0,
        delta=1e-5,
        population=10,
        smallest_cohort=8,
        collusion=0.25,
        rounds=2,
        update_participations=2,
        measurement_participations=1,
        shares={"update": 0.6, "measurement": 0.2, "statistics": 0.2, "profile": 0.0},
        update_dimension=100,
        clip=0.5,
    )
    return make_plan(replace(target, **changes))


def decision(round_: int, recall: float | None = 0.4):
    seen = None if recall is None else {"recall": {"value": recall, "half_width": 0.01}}
    return {"type": "decision", "round": round_, "sight": seen, "estimate": seen}


def summary(plan: PrivacyPlan) -> dict:
    spent = claims(plan, COUNTS)
    against = {name: value for name, value in asdict(spent).items() if name != "if_others_collude"}
    return {
        "kind": plan.kind,
        "unit": plan.unit,
        "trust": plan.trust,
        "delta": plan.delta,
        "epsilon": spent.largest,
        "epsilon_claims": against,
        "epsilon_if_others_collude": spent.if_others_collude,
        "covers_tuning": False,
        "not_covered": ["Floating-point effects of local noise."] if plan.trust == "local" else [],
        "secure_aggregation": "not needed: as it is" if plan.trust == "local" else "real: vectors are masked",
        "model": {"round": 2, "estimate": {"value": 0.4, "half_width": 0.01}},
    }


def clean_run(plan: PrivacyPlan | None = None, source: str = "seeded", day: str = "1970-01-01") -> Evidence:
    """Statistics, then two rounds of updates, the second measured; everybody answers."""
    plan = plan or small_plan()
    exchanges = [(0, "statistics"), (1, "update"), (2, "update"), (2, "measurement")]
    drawn = source if plan.trust == "central" else "clients"
    charges, sums, payments, results = [], [], [], []
    for place, (round_, kind) in enumerate(exchanges):
        line, task = 2 + 2 * place, f"{place:064x}"
        rho = None if plan.epsilon is None else plan.mechanism(kind).rho
        charges.append(Charge(line, task, round_, 1, kind, task, CLIENTS, rho, drawn))
        sigma = plan.sum_sigma(kind, 10)
        sums.append(Sum(line + 1, round_, 1, kind, 10, (), (), sigma, task, False, "", ()))
        for number, name in enumerate(CLIENTS):
            at = 3 + 20 * place + number
            share = plan.share_sigma(kind)
            payments.append(Payment(at, name, "r", round_, 1, kind, task, task, day, rho, share, source))
            results.append(Sealed(at + 10, name, "r", round_, 1, kind, f"{at:064x}"))
    end = {"type": "end", "stopped": "finished", "model": {"round": 2, "estimate": {"value": 0.4, "half_width": 0.01}}}
    server = ServerLog(
        "ledger.jsonl",
        KEYS[0],
        plan.kind,
        "r",
        plan,
        asdict(plan),
        "cat",
        "conf",
        tuple(charges),
        tuple(sums),
        (Head(13, 2, "0" * 64),),
        ((10, decision(2)),),
        ((12, end),),
        13,
        None,
    )
    pin = Pin(2, "r", plan.kind, plan, asdict(plan), "cat", KEYS[0])
    client = ClientLog("clients.jsonl", KEYS[1], (pin,), tuple(payments), tuple(results), (), (), 82, None)
    return Evidence(server, (client,), {}, Printed("summary.json", summary(plan)), None, "attack.json", True, ())


@pytest.fixture
def made():
    """``made(plan, source, day)`` gives the evidence of a clean run."""
    return clean_run


@pytest.fixture
def planned():
    """``planned(**changes)`` gives a plan for ten clients."""
    return small_plan


def write_run(folder: Path, plan: PrivacyPlan | None = None, run: str = "r") -> Path:
    """The same run as files: both ledgers, chained and signed, the clients in one; keys.toml; a summary."""
    plan = plan or small_plan()
    signers = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]
    folder.mkdir(parents=True)
    named = {"kind": plan.kind, "run": run, "plan": asdict(plan), "catalogue": "c" * 64}
    server = create_ledger(folder / "ledger.jsonl", signers[0], {**named, "config": "d" * 64})
    client = create_ledger(folder / "clients.jsonl", signers[1], {"type": "opened"})
    client.append([{"type": "plan", **named, "server": public_hex(signers[0])}])
    for place, (round_, kind) in enumerate([(0, "statistics"), (1, "update"), (2, "update"), (2, "measurement")]):
        _exchange(server, client, plan, run, round_, kind, f"{place:064x}")
        if kind != "update" or round_ == 1:
            server.append([], head=round_)
    model = {"round": 2, "chosen": "last", "why": "the run did all its rounds", "estimate": None}
    server.append([{"type": "end", "stopped": "finished", "model": model, "policy": {}}], head=2)
    server.close()
    client.close()
    names = "".join(f'{name} = "{public_hex(signers[1])}"\n' for name in CLIENTS)
    (folder / "keys.toml").write_text(f'server = "{public_hex(signers[0])}"\n[clients]\n{names}', encoding="utf-8")
    told = summary(plan) | {"model": model, "participations": 2, "rounds": 2, "adjacency": "zero-out"}
    told |= {"accountant": ACCOUNTANT, "epsilon_by_kind": epsilon_by_kind(plan, COUNTS)}
    (folder / "summary.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def _exchange(server, client, plan, run, round_, kind, task):
    """One release: asked, paid, sealed, signed for, summed."""
    named = {"round": round_, "attempt": 1, "release": kind}
    rho = plan.mechanism(kind).rho
    asked = {**named, "type": "intent", "task": task, "cohort": list(CLIENTS), "rho": rho, "noise_source": "clients"}
    server.append([asked])
    paid = {**named, "type": "intent", "run": run, "task": task, "server": server.tip, "day": "1970-01-01", "rho": rho}
    paid |= {"share_sigma": plan.share_sigma(kind), "noise_source": "seeded"}
    client.append([{**paid, "client": name} for name in CLIENTS])
    sealed = [hashlib.sha256(f"{task} {name}".encode()).hexdigest() for name in CLIENTS]
    done = {**named, "type": "result", "run": run}
    left = [{**done, "client": name, "sealed": print_} for name, print_ in zip(CLIENTS, sealed, strict=True)]
    receipt = client.append(left, head=round_)
    came = {**asdict(receipt), "clients": sorted(CLIENTS)}
    total = {"survivors": 10, "declined": [], "failed": [], "sum": task, "sum_sigma": plan.sum_sigma(kind, 10)}
    server.append([{**named, "type": "result", **total, "aborted": False, "why": "", "receipts": [came]}])


@pytest.fixture
def written():
    """``written(folder, plan, run)`` writes a clean run there, with keys.toml."""
    return write_run

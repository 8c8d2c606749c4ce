"""The gallery: broken runs, each made of a good one, to show that the auditor bites.

    python tests/shared/audit/gallery.py FOLDER

makes small real runs, breaks each in its way and writes every one with the clause and the check that must catch it.
Where the operator is the forger, all that follows is chained and signed anew with the run's own keys, on both sides,
receipts included: then only the one lie is wrong, and only a check that understands it can tell.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from shared.privacy.calibration import plan_from_dict
from shared.privacy.chain import GENESIS, Receipt, public_hex, read_ledger, seal_line, sign_head
from simulations.seeding import signing_key

Event = dict[str, Any]
SERVER, CLIENTS, SPLIT = "ledger.jsonl", "clients.jsonl", "home/clients/{}/ledger.jsonl"
UNKNOWN = "f" * 64


# --- good runs


def write_data(folder: Path, users: int = 24) -> Path:
    """Behaviour small enough for a run of a second."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    kinds = ["garden tool", "kitchen pot", "paper lantern", "wooden toy"]
    items = ["id,title,text,categories"]
    items += [f"i{n},{kinds[n % 4]} {n},a {kinds[n % 4]} for house {n},{kinds[n % 4].split()[0]}" for n in range(40)]
    rows = ["user,item,time,kind"]
    for user in range(users):
        liked, other = rng.permutation(10)[:10] * 4 + user % 4, rng.permutation(40)[:6]
        for step, item in enumerate(dict.fromkeys([*liked, *other])):
            rows.append(f"u{user},i{item},{1_600_000_000 + 1000 * step + user},{'purchase' if step % 3 else 'view'}")
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


def make_run(folder: Path, data: Path, *sets: str, seed: int = 1) -> Path:
    """A real run of three rounds."""
    from simulations.config import resolve
    from simulations.run import Screen, new_run

    fixed = ["rounds=3", "model.text_encoder=none", "model.rank=4", "policy.measure_every=2", "training.context=8"]
    fixed += ["training.targets=4", "training.negatives=8", "privacy.delta=1e-3", "policy.k=10", "policy.depth=20"]
    config = resolve("synthetic", sets=[*fixed, "secure_aggregation=ideal", *sets], seed=seed, data=data)
    silent = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
    new_run(config, folder, cache=folder.with_name(f"{folder.name}-cache"), source=None, screen=silent)
    write_keys(folder, seed)
    return folder


POISSON = ("privacy.trust=central", "cohort.sampling=poisson", "cohort.size=6", "cohort.smallest=0", "rounds=16")


def write_keys(folder: Path, seed: int, **changed: str) -> None:
    """The auditor's own list of keys, which it has from elsewhere."""
    lines = [f'server = "{changed.get("server", public_hex(signer(seed, "server")))}"', "[clients]"]
    key = changed.get("clients", public_hex(signer(seed, "clients")))
    lines += [f'{client} = "{key}"' for client in ("1", "2", "3")]
    (folder / "keys.toml").write_text("\n".join(lines) + "\n")


def attacked(folder: Path, canaries: int = 200) -> Path:
    """The run with ``attack.json`` beside it."""
    from simulations.attack.run import attack, write_attack

    write_attack(attack(subject_of(folder), canaries=canaries, seed=0), folder)
    return folder


def subject_of(folder: Path):
    from simulations.attack.subject import read_subject

    return read_subject(
        folder, data=None, cache=folder.with_name(f"{folder.name}-cache"), source=None, say=lambda _sentence: None
    )


# --- taking a run apart and putting it together again


@dataclass
class Entry:
    """A line: its event, and by what others know it: line and hash in the good ledger, or a name for a made-up one."""

    event: Event
    seq: int = 0
    tag: str = ""


@dataclass
class Forgery:
    """A run in pieces.

    Attributes:
        seed: its keys'.
        server, clients: lines, by file for the clients.
        summary, attack: what stands beside.
        roles: file -> whose key signs it.
        withheld: ledgers that were written, and that nobody shows.
    """

    seed: int
    server: list[Entry]
    clients: dict[str, list[Entry]]
    summary: Event
    attack: Event | None
    roles: dict[str, str] = field(default_factory=lambda: {CLIENTS: "clients"})
    withheld: set[str] = field(default_factory=set)


def signer(seed: int, role: str):
    key = signing_key(seed, role)
    if key is None:
        raise RuntimeError("a seed makes a key")
    return key


def take_apart(folder: Path, seed: int = 1) -> Forgery:
    server, clients = ([Entry(x.event, x.number, x.hash) for x in read_ledger(folder / n)] for n in (SERVER, CLIENTS))
    for entry in server:
        for receipt in entry.event.get("receipts", ()):
            receipt["of"] = (CLIENTS, receipt["seq"])
    attack = folder / "attack.json"
    return Forgery(
        seed,
        server,
        {CLIENTS: clients},
        json.loads((folder / "summary.json").read_text()),
        json.loads(attack.read_text()) if attack.exists() else None,
    )


@dataclass
class Pen:
    """Writes one ledger."""

    key: Any
    lines: list[bytes] = field(default_factory=list)
    tip: str = GENESIS

    def put(self, event: Event) -> Receipt | None:
        receipt = None
        if event["type"] == "head" and "forged" not in event:
            receipt = sign_head(self.key, len(self.lines) + 1, self.tip, event["round"])
            event = {**event, "signature": receipt.signature}
        if "key" in event:
            event = {**event, "key": public_hex(self.key)}
        raw, self.tip = seal_line(len(self.lines) + 1, self.tip, event, "forgery")
        self.lines.append(raw)
        return receipt


class Binder:
    """Chains and signs all ledgers anew, in the order in which things happened: references follow their lines."""

    def __init__(self, forgery: Forgery) -> None:
        self.server = Pen(signer(forgery.seed, "server"))
        self.pens = {file: Pen(signer(forgery.seed, forgery.roles[file])) for file in forgery.clients}
        self.left = {file: list(entries) for file, entries in forgery.clients.items()}
        self.renamed: dict[str, str] = {}  # tag of a server's line -> its hash now
        self.heads: dict[tuple[str, int], Receipt] = {}

    def server_line(self, entry: Entry) -> None:
        event = copy.deepcopy(entry.event)
        if "receipts" in event:
            event["receipts"] = [self.renewed(receipt) for receipt in event["receipts"]]
        self.server.put(event)
        self.renamed[entry.tag] = self.server.tip

    def advance(self, file: str, until: int | None) -> None:
        """The clients' lines up to a head; None = all that are left."""
        while self.left[file] and (until is None or any(entry.seq == until for entry in self.left[file])):
            entry = self.left[file].pop(0)
            event = dict(entry.event)
            if event["type"] == "intent":
                event["server"] = self.renamed.get(event["server"], event["server"])
            receipt = self.pens[file].put(event)
            if receipt is not None:
                self.heads[file, entry.seq] = receipt

    def renewed(self, receipt: Event) -> Event:
        of = receipt.pop("of", None)
        if of is None or of[0] not in self.left:
            return receipt
        self.advance(*of)
        new = self.heads.get(tuple(of))
        return receipt if new is None else {**receipt, **{n: getattr(new, n) for n in Receipt.__dataclass_fields__}}


def put_together(forgery: Forgery, folder: Path) -> None:
    """Write a run's pieces to a folder."""
    binder = Binder(forgery)
    for entry in forgery.server:
        binder.server_line(entry)
    for file in binder.left:
        binder.advance(file, None)
    for path, pen in {SERVER: binder.server, **binder.pens}.items():
        if path not in forgery.withheld:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"".join(pen.lines))
    (folder / "summary.json").write_text(json.dumps(forgery.summary, indent=1))
    if forgery.attack is not None:
        (folder / "attack.json").write_text(json.dumps(forgery.attack, indent=1))


def of(entries: Collection[Entry], type_: str, **match: object) -> list[Entry]:
    return [
        entry
        for entry in entries
        if entry.event["type"] == type_ and all(entry.event.get(name) == value for name, value in match.items())
    ]


def all_clients(f: Forgery) -> Iterator[Entry]:
    for entries in f.clients.values():
        yield from entries


def fresh(*names: object) -> str:
    return hashlib.sha256(repr(names).encode()).hexdigest()


def split(f: Forgery) -> None:
    """The same run with two ledgers of clients instead of one: every other client each."""
    (whole,) = f.clients.values()
    names = sorted({entry.event["client"] for entry in whole if "client" in entry.event}, key=int)
    groups = [set(names[::2]), set(names[1::2])]
    files = [SPLIT.format(number) for number in (1, 2)]
    f.roles = dict(zip(files, ("clients", "clients 2"), strict=True))
    f.clients = {
        file: [copy.deepcopy(e) for e in whole if e.event.get("client") in {None, *group}]
        for file, group in zip(files, groups, strict=True)
    }
    for entry in f.server:
        if "receipts" in entry.event:
            entry.event["receipts"] = [
                {**receipt, "of": (file, receipt["of"][1]), "clients": kept}
                for receipt in entry.event["receipts"]
                for file, group in zip(files, groups, strict=True)
                if (kept := [client for client in receipt["clients"] if client in group])
            ]


def copied_exchange(f: Forgery, round_: int, release: str, *, name: str, **changes: object) -> list[Entry]:
    """The lines of one exchange again, both sides; the clients' are put at the end of their ledger already."""
    intent, result = (
        copy.deepcopy(of(f.server, kind, round=round_, release=release)[0]) for kind in ("intent", "result")
    )
    tag, end = f"{name} intent", {}
    for entry in (intent, result):
        entry.event.update(changes)
        entry.seq, entry.tag = 0, f"{name} {entry.event['type']}"
    for number, (file, entries) in enumerate(f.clients.items()):
        lines = [
            copy.deepcopy(e) for e in entries if e.event.get("round") == round_ and e.event.get("release") == release
        ]
        for entry in lines:
            entry.event.update(changes)
            entry.seq = 0
            if entry.event["type"] == "intent":
                entry.event["server"] = tag
                entry.event["task"] = intent.event["task"]
        head = Entry({"type": "head", "round": intent.event["round"]}, 1_000_000 + number)
        entries += [*lines, head]
        end[file] = head.seq
    for receipt in result.event["receipts"]:
        receipt["of"] = (receipt["of"][0], end[receipt["of"][0]])
    return [intent, result]


def before_end(f: Forgery) -> int:
    return f.server.index(of(f.server, "end")[0])


# --- the ways to break one; each changes a run in pieces


def edited_epsilon(f: Forgery) -> None:
    for names in ("epsilon", "epsilon_claims"):
        value = f.summary[names]
        f.summary[names] = {n: v and v / 2 for n, v in value.items()} if isinstance(value, dict) else value / 2


def estimate_for_bound(f: Forgery) -> None:
    """Two percent below the bound: what an estimator prints."""
    f.summary["epsilon"] *= 0.98
    f.summary["epsilon_claims"] = {n: v and v * 0.98 for n, v in f.summary["epsilon_claims"].items()}


def smaller_delta(f: Forgery) -> None:
    f.summary["delta"] /= 100


def kind_understated(f: Forgery) -> None:
    f.summary["epsilon_by_kind"]["update"] *= 0.9


def collusion_understated(f: Forgery) -> None:
    f.summary["epsilon_if_others_collude"] /= 10


def nan_claim(f: Forgery) -> None:
    f.summary["epsilon"] = float("nan")
    f.summary["epsilon_claims"]["everyone"] = float("nan")


def replayed_round(f: Forgery) -> None:
    at = before_end(f)
    lines = copied_exchange(f, 3, "update", name="again")
    f.server[at:at] = [*lines, Entry({"type": "head", "round": 3})]


def above_k(f: Forgery) -> None:
    """All clients are asked for one update more than the plan allows, in another attempt of the last round."""
    last = max(entry.event["round"] for entry in of(f.server, "intent", release="update"))
    at = before_end(f)
    lines = copied_exchange(f, last, "update", name="more", attempt=2)
    for number, entry in enumerate([*lines, *all_clients(f)]):
        for name in ("task", "sum", "sealed"):
            if name in entry.event and entry.event.get("attempt") == 2:
                entry.event[name] = fresh("more", name, number if name == "sealed" else 0)
    f.server[at:at] = [*lines, Entry({"type": "head", "round": last})]


def few_survivors(f: Forgery) -> None:
    """A third of the cohort answers, noise shares were sized for all of it, and the sum is used."""
    plan = plan_from_dict(f.server[0].event["plan"])
    (result,) = (e.event for e in of(f.server, "result", round=2, release="update"))
    everybody = [client for receipt in result["receipts"] for client in receipt["clients"]]
    kept = everybody[: len(everybody) // 3]
    for receipt in result["receipts"]:
        receipt["clients"] = [client for client in receipt["clients"] if client in kept]
    result["receipts"] = [receipt for receipt in result["receipts"] if receipt["clients"]]
    result["failed"] = [client for client in everybody if client not in kept]
    result["survivors"], result["sum_sigma"] = len(kept), plan.sum_sigma("update", len(kept))


def noise_overstated(f: Forgery) -> None:
    for entry in of(f.server, "result", release="update"):
        entry.event["sum_sigma"] *= 1.5


def half_shares(f: Forgery) -> None:
    for entry in of(list(all_clients(f)), "intent"):
        entry.event["share_sigma"] /= 2


def cheaper(f: Forgery) -> None:
    for entry in of([*f.server, *all_clients(f)], "intent"):
        entry.event["rho"] /= 2


def weaker_plan(f: Forgery) -> None:
    for entry in of([*f.server, *all_clients(f)], "plan"):
        entry.event["plan"]["update"]["noise_multiplier"] /= 2


def as_deployment(f: Forgery) -> None:
    """A seeded simulation told as a deployment, wherever its kind stands."""
    for entry in of([*f.server, *all_clients(f)], "plan"):
        entry.event["kind"] = entry.event["plan"]["kind"] = "deployment"
    f.summary["kind"] = "deployment"


def half_deployment(f: Forgery) -> None:
    f.summary["kind"] = "deployment"


def round_robin(f: Forgery) -> None:
    """The same run with cohorts of six by turns, under a claim that rests on coins."""
    names, turn = sorted({e.event["client"] for e in all_clients(f) if "client" in e.event}, key=int), 0
    for intent in of(f.server, "intent"):
        if not intent.event["cohort"]:
            continue
        cohort = [names[(turn + n) % len(names)] for n in range(6)]
        turn += 6
        _recast(f, intent, cohort)


def _recast(f: Forgery, intent: Entry, cohort: list[str]) -> None:
    """Another cohort for one exchange, in both ledgers."""
    name = {key: intent.event[key] for key in ("round", "attempt", "release")}
    (result,) = of(f.server, "result", **name)
    receipt = result.event["receipts"][0]
    intent.event["cohort"] = cohort
    result.event |= {"receipts": [{**receipt, "clients": cohort}], "survivors": len(cohort)}
    result.event |= {"declined": [], "failed": []}
    (entries,) = f.clients.values()
    lines = [e for e in entries if "client" in e.event and all(e.event.get(k) == v for k, v in name.items())]
    at, made = entries.index(lines[0]), []
    for kind in ("intent", "result"):
        template = of(lines, kind)[0]
        for client in cohort:
            entry = copy.deepcopy(template)
            entry.seq, entry.event["client"] = 0, client
            if kind == "result":
                entry.event["sealed"] = fresh("recast", client, *name.values())
            made.append(entry)
    head = next(e for e in entries[at:] if e.event["type"] == "head")
    rest = [e for e in entries if e not in lines]
    # Several heads close one exchange when it was answered in chunks; here it is answered at once.
    at = rest.index(head)
    entries[:] = [*rest[:at], *made, *rest[at:]]
    result.event["receipts"][0]["of"] = (CLIENTS, head.seq)


def metric_outside(f: Forgery) -> None:
    """A decision tells a recall of round 1, in which nothing was measured."""
    (decision,) = of(f.server, "decision", round=2)
    told = copy.deepcopy(decision)
    told.event["round"], told.tag = 1, "outside"
    f.server.insert(f.server.index(of(f.server, "head", round=1)[0]), told)


def uncharged_measurement(f: Forgery) -> None:
    """The measurement of round 2 stands in no ledger, the decision that rests on it does."""
    f.server = [e for e in f.server if not (e.event.get("release") == "measurement" and e.event["round"] == 2)]
    for file, entries in f.clients.items():
        f.clients[file] = [
            e for e in entries if not (e.event.get("release") == "measurement" and e.event["round"] == 2)
        ]


def edited_decision(f: Forgery) -> None:
    of(f.server, "decision")[0].event["after"]["weights"]["text"] += 1.0


def remasked(f: Forgery) -> None:
    """One client's vector of round 1 left again in round 2, under another mask."""
    first, second = (of(list(all_clients(f)), "result", client="1", release="update", round=n)[0] for n in (1, 2))
    second.event["sealed"] = first.event["sealed"]


def free_abort(f: Forgery) -> None:
    """An exchange that came to nothing, and that nobody was charged for."""
    result = copy.deepcopy(of(f.server, "result", round=2, release="update")[0])
    result.event |= {"attempt": 2, "aborted": True, "survivors": 0, "receipts": [], "why": "0 answered"}
    result.event |= {"failed": of(f.server, "intent", round=2, release="update")[0].event["cohort"], "sum_sigma": 0.0}
    result.tag = "free"
    f.server.insert(f.server.index(of(f.server, "head", round=2)[0]), result)


def lost_dropouts(f: Forgery) -> None:
    result = of(f.server, "result", round=2, release="update")[0].event
    plan = plan_from_dict(f.server[0].event["plan"])
    gone = result["receipts"][0]["clients"].pop()
    result["survivors"] -= 1
    result["sum_sigma"] = plan.sum_sigma("update", result["survivors"])
    result["declined"] = [client for client in result["declined"] if client != gone]


def missing_result(f: Forgery) -> None:
    f.server.remove(of(f.server, "result", round=2, release="update")[0])


def missing_round(f: Forgery) -> None:
    """Round 2 taken out of all ledgers, which are chained and signed anew."""
    f.server = [e for e in f.server if e.event.get("round") != 2]
    for file, entries in f.clients.items():
        f.clients[file] = [e for e in entries if e.event.get("round") != 2]


def rounds_swapped(f: Forgery) -> None:
    first, second = ([e for e in f.server if e.event.get("round") == n and e.event["type"] != "end"] for n in (1, 2))
    at = f.server.index(first[0])
    rest = [e for e in f.server if e not in first and e not in second]
    f.server = [*rest[:at], *second, *first, *rest[at:]]


def unasked_payment(f: Forgery) -> None:
    (entries,) = f.clients.values()
    entry = copy.deepcopy(of(entries, "intent", client="2", round=3, release="update")[0])
    entry.event |= {"round": 3, "attempt": 7, "server": UNKNOWN, "task": fresh("unasked")}
    entry.seq = 0
    entries[-1:] = [entry, entries[-1]]


def forged_receipt(f: Forgery) -> None:
    receipt = of(f.server, "result", round=1, release="update")[0].event["receipts"][0]
    del receipt["of"]
    receipt["signature"] = "0" * 128


def stranger_in_sum(f: Forgery) -> None:
    intent = of(f.server, "intent", round=1, release="update")[0]
    intent.event["cohort"] = intent.event["cohort"][1:]


def twice_in_sum(f: Forgery) -> None:
    """Who did not answer is made up for by a second receipt of who did: noise is stated for one too many."""
    receipts = of(f.server, "result", round=1, release="update")[0].event["receipts"]
    (first, *_), (file, at) = receipts[0]["clients"], receipts[0]["of"]
    last, entries = receipts[-1]["clients"].pop(), f.clients[receipts[0]["of"][0]]
    gone = [e for e in entries if e.event.get("client") == last and e.event["release"] == "update"]
    gone = [e for e in gone if e.event["round"] == 1]
    (head,) = (e for e in entries if e.seq == at)
    entries.insert(entries.index(head) + 1, Entry(dict(head.event), 1_000_001))
    f.clients[file] = [e for e in entries if e not in gone]
    receipts.insert(1, {**receipts[0], "clients": [first], "of": (file, 1_000_001)})


def vector_behind_receipt(f: Forgery) -> None:
    """A client signed for its ledger first, and wrote down the vector that left afterwards."""
    (entries,) = f.clients.values()
    sealed = of(entries, "result", client="1", round=1, release="update")[0]
    receipts = of(f.server, "result", round=1, release="update")[0].event["receipts"]
    (at,) = (r["of"][1] for r in receipts if "1" in r["clients"])
    entries.remove(sealed)
    entries.insert(1 + next(n for n, entry in enumerate(entries) if entry.seq == at), sealed)


def unpinned(f: Forgery) -> None:
    """Clients pay for a run that they pinned no plan of: no ledger of theirs says what it was held to."""
    for file, entries in f.clients.items():
        f.clients[file] = [entry for entry in entries if entry.event["type"] != "plan"]


def ledgers_of_another_run(f: Forgery) -> None:
    """The clients' ledgers are of another run, the receipts are gone, and the claim is a tenth."""
    for entry in all_clients(f):
        if "run" in entry.event:
            entry.event["run"] = "another"
    for entry in of(f.server, "result"):
        entry.event["receipts"] = []
    f.summary["epsilon"] /= 10
    f.summary["epsilon_claims"] = {n: v and v / 10 for n, v in f.summary["epsilon_claims"].items()}


def other_plan(f: Forgery) -> None:
    """Half of the clients were told another plan, with more noise than the sums have."""
    split(f)
    (pin,) = of(f.clients[SPLIT.format(2)], "plan")
    pin.event["plan"]["update"]["noise_multiplier"] *= 1.5


def ledger_missing(f: Forgery) -> None:
    split(f)
    f.withheld = {SPLIT.format(2)}


def budget_reset(f: Forgery) -> None:
    """Client 1 was restored in round 3: a new ledger, a new key, a budget that begins again."""
    split(f)
    old = f.clients[SPLIT.format(1)]
    late = [e for e in old if e.event.get("client") == "1" and e.event["round"] == 3]
    new = [copy.deepcopy(e) for e in old if e in late or e.event["type"] in {"opened", "plan"}]
    new += [copy.deepcopy(e) for e in of(old, "head", round=3)]
    f.clients[SPLIT.format(3)], f.roles[SPLIT.format(3)] = new, "clients 3"
    f.clients[SPLIT.format(1)] = [e for e in old if e not in late]
    seqs = sorted(e.seq for e in of(new, "head"))
    for entry in f.server:
        if entry.event["type"] == "result" and entry.event["round"] == 3:
            for receipt in [r for r in entry.event["receipts"] if "1" in r["clients"]]:
                receipt["clients"] = [client for client in receipt["clients"] if client != "1"]
                at = receipt["of"][1]
                entry.event["receipts"].append({**receipt, "clients": ["1"], "of": (SPLIT.format(3), at)})
    _order_heads(f, seqs)


def _order_heads(f: Forgery, seqs: list[int]) -> None:
    """The new ledger's lines in the order of the exchanges that they answer."""
    lines = f.clients[SPLIT.format(3)]
    lines.sort(key=lambda entry: entry.seq)
    if [entry.seq for entry in of(lines, "head")] != seqs:
        raise RuntimeError("a head of the restored client is out of order")


def cut_client(f: Forgery) -> None:
    """The clients' ledger ends before a line that the server holds a receipt of."""
    (file,) = f.clients
    heads = of(f.clients[file], "head")
    cut = heads[-1]
    receipts = [r for e in f.server for r in e.event.get("receipts", ()) if r["of"] == (CLIENTS, cut.seq)]
    for receipt in receipts:
        del receipt["of"]  # stays as it was signed
    f.clients[file] = f.clients[file][: f.clients[file].index(heads[-2]) + 1]


def cut_server(f: Forgery) -> None:
    f.server = f.server[: f.server.index(of(f.server, "head", round=2)[0]) + 1]


def bound_above(f: Forgery) -> None:
    f.attack["canaries"]["bounds"][0]["epsilon"] = f.summary["epsilon"] + 1.0


def weaker_attack(f: Forgery) -> None:
    """What the attack found is edited down; how many guesses were right still stands there."""
    for bound in f.attack["canaries"]["bounds"]:
        bound["epsilon"] /= 2


def other_attack(f: Forgery) -> None:
    f.attack["run"] = "another"


def leaky(f: Forgery) -> None:
    """The server tells members apart far better than epsilon allows."""
    (row,) = (one for one in f.attack["imia"]["modes"] if one["mode"] == "distributed")
    row |= {"advantage": 0.99, "low": 0.97, "high": 1.0, "implied": 0.6}


# --- bytes, for who has no key


def _edit(folder: Path, name: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = folder / name
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def dropped_line(folder: Path) -> None:
    _edit(folder, SERVER, lambda lines: [*lines[:6], *lines[7:]])


def reordered_lines(folder: Path) -> None:
    _edit(folder, CLIENTS, lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]])


def edited_line(folder: Path) -> None:
    _edit(folder, SERVER, lambda lines: [lines[0].replace(b'"epsilon":8.0', b'"epsilon":4.0'), *lines[1:]])


def forged_signature(folder: Path) -> None:
    """Somebody else's key signs the last head; hashes fit."""

    def change(lines: list[bytes]) -> list[bytes]:
        last = json.loads(lines[-1])
        receipt = sign_head(signer(99, "stranger"), last["seq"], last["prev"], last["event"]["round"])
        raw, _ = seal_line(last["seq"], last["prev"], {**last["event"], "signature": receipt.signature}, "forgery")
        return [*lines[:-1], raw]

    _edit(folder, SERVER, change)


def nan_in_ledger(folder: Path) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        at = next(n for n, line in enumerate(lines) if b'"sum_sigma"' in line)
        value = json.loads(lines[at])["event"]["sum_sigma"]
        return [*lines[:at], lines[at].replace(json.dumps(value).encode(), b"NaN"), *lines[at + 1 :]]

    _edit(folder, SERVER, change)


def torn(folder: Path) -> None:
    _edit(folder, CLIENTS, lambda lines: [*lines[:-1], lines[-1][:40]])


def strange_key(folder: Path) -> None:
    write_keys(folder, 1, server=public_hex(signer(99, "stranger")))


# --- sabotaged builds: real attacks on code that was made worse


def doubled_clip(folder: Path) -> None:
    from shared.privacy.clipping import clip_to_grid
    from simulations.attack.replay_check import replay_check

    with patch("client.release.clip_to_grid", lambda rows, clip, steps: clip_to_grid(rows, 2 * clip, 2 * steps)):
        _found(folder, replay=replay_check(subject_of(folder), seed=0))


def halved_noise(folder: Path) -> None:
    from shared.privacy.noise import discrete_gaussian
    from simulations.attack.white_box import white_box

    with patch(
        "client.release.discrete_gaussian", lambda sigma, size, source: discrete_gaussian(sigma / 2, size, source)
    ):
        _found(folder, white_box=white_box(subject_of(folder).job.plan, seed=0))


def _found(folder: Path, **sections: Event) -> None:
    path = folder / "attack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **sections}))


# --- the list


@dataclass(frozen=True)
class Broken:
    """One broken run.

    Attributes:
        how: changes a run in pieces (signed anew) or, if ``raw``, a folder's files.
        clause, check: what must catch it.
        outcome: "cannot tell" where nobody can prove a lie, but nothing may pass.
        base: of which good run.
    """

    how: Callable[[Any], None]
    clause: int
    check: str
    raw: bool = False
    outcome: str = "fail"
    base: str = "good"

    @property
    def name(self) -> str:
        return self.how.__name__.replace("_", "-")

    def make(self, good: Path, folder: Path, seed: int = 1) -> Path:
        """Break a copy of a good run."""
        shutil.copytree(good, folder, ignore=shutil.ignore_patterns("cache", ".lock"))
        if self.raw:
            self.how(folder)
            return folder
        forgery = take_apart(folder, seed)
        self.how(forgery)
        (folder / CLIENTS).unlink()
        put_together(forgery, folder)
        return folder


GALLERY = (
    Broken(edited_epsilon, 1, "claim-is-bound"),
    Broken(estimate_for_bound, 1, "claim-is-bound"),
    Broken(kind_understated, 1, "claim-per-kind"),
    Broken(nan_claim, 1, "claim-missing"),
    Broken(smaller_delta, 1, "delta-as-planned"),
    Broken(weaker_plan, 1, "plan-keeps-promise"),
    Broken(above_k, 2, "participations"),
    Broken(budget_reset, 2, "reset"),
    Broken(metric_outside, 3, "metrics-charged"),
    Broken(uncharged_measurement, 3, "metrics-charged"),
    Broken(collusion_understated, 4, "collusion"),
    Broken(lost_dropouts, 4, "dropouts"),
    Broken(ledgers_of_another_run, 1, "claim-is-bound"),
    Broken(few_survivors, 5, "cohort-survivors"),
    Broken(noise_overstated, 5, "noise-in-sum"),
    Broken(half_shares, 5, "share"),
    Broken(as_deployment, 5, "source"),
    Broken(half_deployment, 5, "kind-as-judged"),
    Broken(free_abort, 5, "aborted-charged"),
    Broken(other_plan, 5, "plans-agree"),
    Broken(round_robin, 5, "coins-order", base="poisson"),
    Broken(cheaper, 6, "rho-as-charged"),
    Broken(edited_line, 7, "chain-server", raw=True),
    Broken(dropped_line, 7, "chain-server", raw=True),
    Broken(forged_signature, 7, "chain-server", raw=True),
    Broken(nan_in_ledger, 7, "chain-server", raw=True),
    Broken(reordered_lines, 7, "chain-client", raw=True),
    Broken(torn, 7, "chain-client", raw=True),
    Broken(strange_key, 7, "keys-server", raw=True),
    Broken(rounds_swapped, 7, "order"),
    Broken(missing_result, 7, "gaps"),
    Broken(missing_round, 7, "gaps-rounds"),
    Broken(replayed_round, 7, "replays"),
    Broken(ledger_missing, 7, "client-ledgers"),
    Broken(cut_client, 7, "tail-client"),
    Broken(cut_server, 7, "tail-server", outcome="cannot tell"),
    Broken(forged_receipt, 7, "receipts"),
    Broken(stranger_in_sum, 7, "receipts"),
    Broken(twice_in_sum, 7, "receipts"),
    Broken(vector_behind_receipt, 7, "results-paid"),
    Broken(unpinned, 7, "pinned"),
    Broken(unasked_payment, 7, "payments-asked"),
    Broken(remasked, 7, "sealed-once"),
    Broken(edited_decision, 7, "decisions"),
    Broken(other_attack, 9, "attack-of-this-run"),
    Broken(bound_above, 9, "lower-bound"),
    Broken(weaker_attack, 9, "bound-as-counted"),
    Broken(doubled_clip, 9, "record-replay", raw=True),
    Broken(halved_noise, 9, "white-box", raw=True),
    Broken(leaky, 9, "membership"),
)


def main(folder: Path) -> None:
    """Make everything, and say what must catch it."""
    data = write_data(folder / "data")
    good = {
        "good": attacked(make_run(folder / "good", data)),
        "poisson": make_run(folder / "poisson", data, *POISSON),
    }
    for broken in GALLERY:
        broken.make(good[broken.base], folder / broken.name)
        print(f"{broken.name}: clause {broken.clause}, {broken.check}: {broken.outcome}")  # noqa: T201 - a script


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What an audit costs: ledgers of a long run, written here, verified beside the bare reading of the same JSON.

Every client has a ledger and a key of its own, as in a deployment. Each measured process is a fresh one, so that its
peak of memory is the audit's.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from shared.errors import RunError
from shared.privacy.calibration import make_plan
from shared.privacy.chain import GENESIS, Receipt, public_hex, seal_line, sign_head
from shared.privacy.plan import PrivacyPlan, Target, plan_to_dict
from simulations.benchmarks.measure import in_child, machine, peak

SECONDS, MEGABYTES = 60.0, 1000.0  # the bars of the project
THIS: Final = "simulations.benchmarks.audit"
_NONE: Final = "0" * 64


@dataclass(frozen=True)
class Plan:
    """Sizes of the run that is audited.

    Attributes:
        rounds, clients: as many.
        cohort: clients asked in each round; everybody is asked equally often, so a client signs
            ``rounds * cohort / clients`` heads.
    """

    rounds: int = 10_000
    clients: int = 1_000
    cohort: int = 10


@dataclass
class Chain:
    """A ledger in memory; not frozen: lines are added to it.

    Attributes:
        signer: of its heads.
        lines, tip: bytes of each line, and the hash of the last.
    """

    signer: Ed25519PrivateKey
    lines: list[bytes] = field(default_factory=list)
    tip: str = GENESIS

    def add(self, event: dict[str, Any]) -> None:
        """Chain a line."""
        raw, self.tip = seal_line(len(self.lines) + 1, self.tip, event, "benchmark")
        self.lines.append(raw)

    def head(self, number: int) -> Receipt:
        """Close a round."""
        receipt = sign_head(self.signer, len(self.lines) + 1, self.tip, number)
        self.add({"type": "head", "round": number, "signature": receipt.signature})
        return receipt


def measure(say: Callable[[str], None], plan: Plan | None = None) -> dict[str, Any]:
    """Write the ledgers, verify them, and read them without verifying; JSON values.

    Args:
        say: told what is being done.
        plan: sizes.

    Raises:
        RunError: a cohort larger than all clients; or the audit of the clean ledgers fails, so its time is none.
    """
    plan = plan or Plan()
    if plan.cohort > plan.clients:
        raise RunError(f"a cohort of {plan.cohort} of {plan.clients} clients: at most all of them can be asked")
    where = machine("cryptography", "dp-accounting")
    with tempfile.TemporaryDirectory(prefix="fedrecall-audit-") as folder:
        say(f"writing ledgers of {plan.rounds:,} rounds, {plan.clients:,} clients, {plan.cohort} a round")
        lines, heads, size = write_run(Path(folder), plan)
        say(f"reading {lines:,} lines as JSON, nothing else")
        bare = in_child(THIS, "bare", folder)
        say(f"verifying {lines:,} lines and {heads:,} signatures")
        audit = in_child(THIS, "audit", folder)
    if audit["failed"] or audit["lines"] != lines:
        raise RunError(f"the audit of clean ledgers fails: {', '.join(audit['failed']) or 'lines are missing'}")
    return {
        "machine": asdict(where),
        "rounds": plan.rounds,
        "clients": plan.clients,
        "cohort": plan.cohort,
        "lines": lines,
        "signatures": heads,
        "megabytes": size / 1e6,
        "audit": audit,
        "bare": bare,
        "bars": {
            f"audit under {SECONDS:.0f} s": audit["seconds"] < SECONDS,
            f"memory under {MEGABYTES:.0f} MB": audit["peak_megabytes"] < MEGABYTES,
        },
    }


def write_run(folder: Path, plan: Plan) -> tuple[int, int, int]:
    """A run's folder with a ledger for each client; how many lines and heads, and bytes in all."""
    terms = _terms(plan)
    server = Chain(signer_of("server"))
    first = {"kind": "simulation", "run": "bench", "plan": plan_to_dict(terms), "catalogue": _NONE, "config": _NONE}
    server.add({"type": "plan", **first, "key": public_hex(server.signer)})
    pin = {"type": "plan", **{name: first[name] for name in ("kind", "run", "plan", "catalogue")}}
    clients = [
        _opened(f"client {number}", {**pin, "server": public_hex(server.signer)}) for number in range(plan.clients)
    ]
    for number in range(1, plan.rounds + 1):
        _round(server, clients, terms, number, _cohort(plan, number))
    server.add({"type": "end", "stopped": "finished", "model": {}, "policy": {}})
    server.head(plan.rounds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(server.lines))
    for number, chain in enumerate(clients):
        home = folder / "home" / "clients" / str(number)
        home.mkdir(parents=True)
        (home / "ledger.jsonl").write_bytes(b"".join(chain.lines))
    chains = [server, *clients]
    lines = sum(len(chain.lines) for chain in chains)
    size = sum(len(raw) for chain in chains for raw in chain.lines)
    return lines, plan.rounds * (plan.cohort + 1) + 1, size


def _terms(plan: Plan) -> PrivacyPlan:
    return make_plan(
        Target(
            kind="simulation",
            unit="user",
            trust="distributed",
            epsilon=8.0,
            delta=1e-5,
            population=plan.clients,
            smallest_cohort=max(2, plan.cohort - 1),
            collusion=0.1,
            rounds=plan.rounds,
            update_participations=-(-plan.rounds * plan.cohort // plan.clients),
            measurement_participations=0,
            shares={"update": 1.0, "measurement": 0.0, "statistics": 0.0, "profile": 0.0},
            update_dimension=1000,
            clip=1.0,
        )
    )


def _cohort(plan: Plan, number: int) -> list[int]:
    start = (number - 1) * plan.cohort
    return [(start + place) % plan.clients for place in range(plan.cohort)]


def signer_of(name: str) -> Ed25519PrivateKey:
    """The key of "server" or of "client <number>"; anybody can make it, so it signs nothing of worth."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"benchmark {name}".encode()).digest())


def _opened(name: str, pin: dict[str, Any]) -> Chain:
    chain = Chain(signer_of(name))
    chain.add({"type": "opened", "key": public_hex(chain.signer)})
    chain.add(pin)
    return chain


def _round(server: Chain, clients: Sequence[Chain], terms: PrivacyPlan, number: int, cohort: Sequence[int]) -> None:
    """One round as both sides write it."""
    name = {"round": number, "attempt": 1, "release": "update"}
    task = _digest(f"task {number}")
    asked = {**name, "task": task, "rho": terms.update.rho}
    server.add({"type": "intent", **asked, "cohort": [str(client) for client in cohort], "noise_source": "clients"})
    share, receipts = terms.share_sigma("update"), []
    for client in cohort:
        chain, mine = clients[client], {**name, "client": str(client), "run": "bench"}
        paid = {"server": server.tip, "day": "1970-01-01", "share_sigma": share, "noise_source": "seeded"}
        chain.add({"type": "intent", **asked, **mine, **paid})
        chain.add({"type": "result", **mine, "sealed": _digest(f"sealed {client} {number}")})
        receipts.append({**asdict(chain.head(number)), "clients": [str(client)]})
    survivors = {"survivors": len(cohort), "declined": [], "failed": [], "aborted": False, "why": ""}
    noise = {"sum_sigma": terms.sum_sigma("update", len(cohort)), "sum": _digest(f"sum {number}")}
    server.add({"type": "result", **name, **survivors, **noise, "receipts": receipts})
    server.head(number)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bare(folder: Path) -> dict[str, Any]:
    """Every line through ``json.loads``: what any reader of these files pays."""
    return {"lines": sum(1 for raw in _raw(folder) if json.loads(raw))}


def _raw(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*.jsonl"):
        with path.open("rb") as handle:
            yield from handle


def _audit(folder: Path) -> dict[str, Any]:
    """The whole audit, imports included."""
    from shared.audit.reading import read_evidence  # noqa: PLC0415 - its imports are part of what is measured
    from shared.audit.verify import verify  # noqa: PLC0415 - as above

    began = time.perf_counter()
    evidence = read_evidence(folder)
    read = time.perf_counter() - began
    report = verify(evidence)
    lines = sum(log.lines for log in (evidence.server, *evidence.clients) if log)
    failed = [finding.check for finding in report.findings if finding.outcome == "fail"]
    return {"lines": lines, "reading": read, "judging": time.perf_counter() - began - read, "failed": failed}


def main(what: str, folder: str) -> None:
    """One measured process: prints its figures as JSON."""
    began = time.perf_counter()
    done = (_audit if what == "audit" else _bare)(Path(folder))
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_megabytes": peak() / 1e6, **done}))


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`measure` returned."""
    audit, bare = result["audit"], result["bare"]
    table = Table(
        title=f"Audit of {result['rounds']:,} rounds, {result['clients']:,} clients, {result['cohort']} a round",
        caption=f"{result['lines']:,} lines, {result['signatures']:,} signatures, {result['megabytes']:.0f} MB",
        box=SIMPLE,
    )
    table.add_column("")
    for name in ("seconds", "lines a second", "peak MB"):
        table.add_column(name, justify="right")
    for name, row in (("fedrecall-audit verify", audit), ("json.loads alone", bare)):
        speed = f"{result['lines'] / row['seconds']:,.0f}"
        table.add_row(name, f"{row['seconds']:.1f}", speed, f"{row['peak_megabytes']:.0f}")
    console.print(table)
    for name, kept in result["bars"].items():
        console.print(f"{'ok ' if kept else 'NO '} {name}", markup=False)
    where = result["machine"]
    console.print(f"{where['cpu']}, load {where['load']:.1f}, Python {where['python']}", markup=False)


if __name__ == "__main__":
    main(*sys.argv[1:3])

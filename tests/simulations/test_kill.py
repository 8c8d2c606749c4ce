"""kill -9 at every durable step of a run, and a power cut in the middle of it; then ``resume``.

A child process runs a whole tiny simulation and is killed at the n-th sync or rename. "whole": the process dies at a
sync, and all that was written is there, as after the sync; or after a rename. "torn": the power fails at a sync, and
half of what was not synced is lost. Another child resumes. For every n the ledgers must show: nothing free, nothing
released twice for one payment, everything charged, and the run goes on. Children are forked from this process, which
has loaded what is slow to load.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import simulations.run
from server.checkpoint import load_state
from server.resuming import CHECKPOINT, SERVER_LEDGER
from shared.privacy.ledger import read_ledger
from shared.privacy.plan import RELEASES, claims
from simulations.config import resolve
from simulations.engine import InProcessGrid
from simulations.mending import CLIENT_LEDGER, CONFIG
from simulations.model import model_of, read_model, write_model
from simulations.run import Screen, job_of, new_run, resume_run
from simulations.world import load_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks /proc which file is synced")

LAST = (SERVER_LEDGER, CLIENT_LEDGER, CHECKPOINT, "best.safetensors", "model.safetensors")
SILENT = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
SETS = ["rounds=2", "model.text_encoder=none", "model.rank=2", "policy.measure_every=1", "training.context=4"]
SETS += ["training.targets=2", "training.negatives=4", "privacy.delta=1e-3", "policy.k=10", "policy.depth=12"]
SETS += [
    "cohort.deadline=20",
    "privacy.epsilon=60",
    "privacy.measurement_share=0.6",
    "privacy.profile_share=0.1",
]  # so that recall can be told


@dataclass
class Fault:
    """Counts the durable steps of a process and kills it at one; steps of files outside ``folder`` are not counted."""

    folder: Path
    kill_at: int = 0
    mode: str = "whole"
    names: list[str] = field(default_factory=list)
    synced: dict[int, int] = field(default_factory=dict)

    def install(self) -> None:
        self.synced = {path.stat().st_ino: path.stat().st_size for path in self.folder.rglob("*") if path.is_file()}
        self.replace = os.replace
        os.fsync, os.replace = self._fsync, self._replace

    def _fsync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if not path.is_relative_to(self.folder):
            return
        status = os.fstat(handle)
        before = 0 if path.is_dir() else min(self.synced.get(status.st_ino, 0), status.st_size)
        if self._due(f"sync {path.name}"):
            if self.mode == "torn" and not path.is_dir():
                os.truncate(path, before + (status.st_size - before) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.synced[status.st_ino] = status.st_size  # no real sync: what is killed leaves its page cache behind

    def _replace(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        self.synced.pop(os.stat(old).st_ino, None)  # noqa: PTH116 - beside os.replace
        self.replace(old, new)
        if Path(new).is_relative_to(self.folder) and self._due(f"rename {Path(new).name}"):
            os.kill(os.getpid(), signal.SIGKILL)

    def _due(self, name: str) -> bool:
        self.names.append(name)
        return len(self.names) == self.kill_at


class WatchedGrid(InProcessGrid):
    """Notes what leaves the clients, as an observer of the network would; the note outlives the process."""

    log: Path

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        with self.log.open("a", encoding="utf-8") as file:
            for reply in replies:
                for name in ("sealed", "masked"):
                    if not reply.has_error() and name in reply.content:
                        vector = reply.content[name]["vector"].numpy()
                        client = str(reply.metadata.src_node_id)
                        file.write(json.dumps([client, name, hashlib.sha256(vector.tobytes()).hexdigest()]) + "\n")
        return replies


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return Walk(tmp_path_factory.mktemp("kill"))


class Walk:
    """The tiny simulation, and its runs in child processes."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"
        self.data.mkdir()
        items = ["id,title,text", *(f"i{n},thing {n},a thing of kind {n % 3}" for n in range(16))]
        rows = ["user,item,time"]
        rows += [f"u{u},i{(u + 5 * n) % 16},{1000 * n + u}" for u in range(6) for n in range(12)]
        (self.data / "items.csv").write_text("\n".join(items) + "\n")
        (self.data / "interactions.csv").write_text("\n".join(rows) + "\n")
        # Children inherit what is loaded, computed and remembered here.
        config = self.config("seed=1", "secure_aggregation=ideal")
        self.world = load_world(config, root, None, SILENT.say)
        self.job = job_of(config, self.world, "run")
        new_run(config, root / "warm", cache=root, source=None, screen=SILENT)

    def config(self, *sets: str):
        return resolve("synthetic", sets=[*SETS, *sets], seed=None, data=self.data)

    def run(self, folder: Path, *sets: str, fault: Fault | None = None) -> int:
        """A whole run in a child; its exit code, -9 when it was killed."""
        config = self.config(*sets)
        return self.child(folder, fault, lambda: new_run(config, folder, cache=self.root, source=None, screen=SILENT))

    def resume(self, folder: Path, fault: Fault | None = None) -> int:
        return self.child(folder, fault, lambda: resume_run(folder, cache=self.root, source=None, screen=SILENT))

    def child(self, folder: Path, fault: Fault | None, body) -> int:
        import torch

        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        code = 1
        try:
            signal.alarm(120)  # whatever hangs is a failure, not a test that never ends
            torch.set_num_threads(1)  # the threads of the parent's pool are not here
            WatchedGrid.log = folder.parent / "wire.jsonl"
            simulations.run.InProcessGrid = WatchedGrid
            simulations.run.finish = quick_finish
            simulations.run.load_world = lambda *_arguments: self.world
            (fault or Fault(folder)).install()
            body()
            code = 0
        except BaseException:  # noqa: BLE001 - a child must not go on as pytest
            (folder.parent / "error.txt").write_text(traceback.format_exc())
        finally:
            if fault is not None:
                (folder.parent / "steps.json").write_text(json.dumps(fault.names))
            os._exit(code)

    def steps(self, *sets: str) -> list[str]:
        """Names of the durable steps of an unbroken run, in order."""
        folder = self.root / f"count{len(list(self.root.iterdir()))}" / "run"
        folder.parent.mkdir()
        assert self.run(folder, *sets, fault=Fault(folder)) == 0, (folder.parent / "error.txt").read_text()
        return json.loads((folder.parent / "steps.json").read_text())


def quick_finish(config, folder, world, job, ending, *, loading_seconds):
    """The end without its yardsticks and charts: the model, the spend, and the mark that the run has ended."""
    write_model(folder / "model.safetensors", model_of(ending.model, job), world.catalogue)
    summary = {"stopped": ending.stopped, "rounds_done": ending.rounds_done, "model": ending.to_dict()}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "report.html").write_text("ended")


def events(path: Path) -> list[dict]:
    return [line.event for line in read_ledger(path)]


def of(kind: str, lines: list[dict]) -> list[dict]:
    return [event for event in lines if event["type"] == kind]


def release(event: dict) -> tuple[int, int, str]:
    return event["round"], event["attempt"], event["release"]


def check_payments(folder: Path) -> None:
    """Nothing free, nothing twice for one payment, and each ledger's word fits the other's."""
    server, clients = events(folder / SERVER_LEDGER), events(folder / CLIENT_LEDGER)
    asked = Counter((client, *release(event)) for event in of("intent", server) for client in event["cohort"])
    paid = Counter((event["client"], *release(event)) for event in of("intent", clients))
    # A retry is another attempt, with its own charge; who was killed before anything was sent was paid by nobody.
    assert max(asked.values()) == max(paid.values(), default=1) == 1
    assert set(paid) <= set(asked)
    seen: set[tuple] = set()
    answered: set[tuple] = set()
    for event in clients:
        if event["type"] == "intent":
            seen.add((event["client"], *release(event)))
        if event["type"] == "result":
            what = (event["client"], *release(event))
            assert what in seen, "a result without an intent before it"
            assert what not in answered, "two results for one intent"
            answered.add(what)
    sealed = [event["sealed"] for event in of("result", clients)]
    assert len(sealed) == len(set(sealed)), "noise was used twice"
    for event in of("result", server):
        names = {client for group in event["receipts"] for client in group["clients"]}
        assert {(client, *release(event)) for client in names} <= answered


def check_wire(folder: Path, *, seeded: bool) -> None:
    """What left the clients, whichever process: paid for and written down before, and no vector twice."""
    results = {(event["client"], event["sealed"]) for event in of("result", events(folder / CLIENT_LEDGER))}
    log = folder.parent / "wire.jsonl"
    left = [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    assert {(client, digest) for client, kind, digest in left if kind == "sealed"} <= results
    if not seeded:  # a seeded simulation repeats the same bytes, which tell nobody anything new
        assert len(left) == len(set(left))
        assert len(left) <= len(of("intent", events(folder / CLIENT_LEDGER)))


def check_budget(folder: Path, job) -> None:
    """The spend that is reported is what the server's ledger says, retries included, and inside the plan."""
    state = load_state(folder / CHECKPOINT)
    charged = Counter(
        (client, event["release"])
        for event in of("intent", events(folder / SERVER_LEDGER))
        for client in event["cohort"]
    )
    assert {(c, kind): n for kind, counts in state.used.items() for c, n in counts.items()} == charged
    for kind in RELEASES:
        assert max((n for (_, k), n in charged.items() if k == kind), default=0) <= job.plan.full()[kind]
    most = {kind: max((n for (_, k), n in charged.items() if k == kind), default=0) for kind in RELEASES}
    assert claims(job.plan, most).largest <= job.plan.epsilon


def check_end(folder: Path) -> dict:
    """The run came to its end, its rows are whole, and its model can be read."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped"] in {"finished", "budget exhausted", "no contexts"}
    path = folder / "rounds.jsonl"
    rows = [json.loads(line)["round"] for line in path.read_text().splitlines()] if path.exists() else []
    assert rows == list(range(1, summary["rounds_done"] + 1))
    assert read_model(folder / "model.safetensors").policy.frozen
    return summary


def kept(before: bytes, after: bytes) -> bool:
    """Whether a ledger still begins with all the whole lines that it had."""
    return after.startswith(before[: before.rfind(b"\n") + 1])


class Killed:
    """One run killed at one step: what was on disk then, and whether it can be resumed."""

    def __init__(self, walk: Walk, step: int, mode: str, *sets: str) -> None:
        self.folder = walk.root / f"{step}{mode}{len(list(walk.root.iterdir()))}" / "run"
        self.folder.parent.mkdir()
        code = walk.run(self.folder, *sets, fault=Fault(self.folder, step, mode))
        assert code == -signal.SIGKILL, (code, self.error())
        self.ledgers = {
            name: path.read_bytes() if (path := self.folder / name).exists() else b""
            for name in (SERVER_LEDGER, CLIENT_LEDGER)
        }

    def error(self) -> str:
        path = self.folder.parent / "error.txt"
        return path.read_text() if path.exists() else ""


def resumed(walk: Walk, killed: Killed) -> dict | None:
    """Resume and read the summary; None = nothing had begun, and the sentence says so."""
    code = walk.resume(killed.folder)
    if not (killed.folder / CONFIG).exists():
        assert code == 1
        assert "no run here" in killed.error()
        return None
    assert code == 0, killed.error()
    assert not [path.name for path in killed.folder.iterdir() if path.suffix in {".new", ".tmp"}]
    return check_end(killed.folder)


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in LAST if (folder / name).exists()}


def cases(walk: Walk, *sets: str) -> list[tuple[int, str, str]]:
    """Every state of the disk that a kill can leave, once: (step, mode, name).

    What stands in a draft is never read, and a folder's sync changes nothing that another process sees.
    """
    out, steps = [], walk.steps(*sets)
    assert {f"rename {name}" for name in LAST if name.endswith("safetensors")} < set(steps)
    for number, name in enumerate(steps, 1):
        what, _, file = name.partition(" ")
        modes = ("whole",) if what == "rename" else ("torn",) if file.startswith(".") else ("whole", "torn")
        out += [(number, mode, name) for mode in modes if (walk.root / file).suffix or what == "rename"]
    return out


@pytest.mark.parametrize("aggregation", ["ideal", pytest.param("real", marks=pytest.mark.slow)])
def test_a_seeded_run_killed_anywhere_ends_with_the_bytes_of_the_unbroken_one(walk, aggregation):
    sets = [f"secure_aggregation={aggregation}", "seed=1"]
    whole = walk.root / f"whole-{aggregation}" / "run"
    whole.parent.mkdir()
    assert walk.run(whole, *sets) == 0
    for step, mode, name in cases(walk, *sets):
        killed = Killed(walk, step, mode, *sets)
        where = f"killed {mode} step {step}, {name}"
        if resumed(walk, killed) is None:
            continue
        assert digests(killed.folder) == digests(whole), where
        check_payments(killed.folder)
        check_wire(killed.folder, seeded=True)
        check_budget(killed.folder, walk.job)


@pytest.mark.parametrize("aggregation", ["ideal", pytest.param("real", marks=pytest.mark.slow)])
def test_an_unseeded_run_killed_anywhere_pays_again_with_new_noise(walk, aggregation):
    """What was paid stays paid, and a retried release is another attempt, charged again."""
    sets = [f"secure_aggregation={aggregation}", "seed=none"]
    for step, mode, name in cases(walk, *sets):
        killed = Killed(walk, step, mode, *sets)
        where = f"killed {mode} step {step}, {name}"
        done = load_state(killed.folder / CHECKPOINT).ledgers if (killed.folder / CHECKPOINT).exists() else {}
        summary = resumed(walk, killed)
        if summary is None:
            continue
        for ledger, before in killed.ledgers.items():
            assert kept(before, (killed.folder / ledger).read_bytes()), where
        check_payments(killed.folder)
        check_wire(killed.folder, seeded=False)
        check_budget(killed.folder, walk.job)
        check_retries(killed, done.get(SERVER_LEDGER, 0), summary)


def check_retries(killed: Killed, done: int, summary: dict) -> None:
    """What was asked for after the checkpoint is asked for again as the next attempt, or the budget for it is gone.

    Without what the one-off releases say there are no contexts, and updates are asked of nobody.
    """
    before = killed.ledgers[SERVER_LEDGER].count(b"\n")
    lines = list(read_ledger(killed.folder / SERVER_LEDGER))
    lost = [release(line.event) for line in lines if line.event["type"] == "intent" and done < line.number <= before]
    again = {release(line.event) for line in lines if line.event["type"] == "intent" and line.number > before}
    for number, attempt, kind in lost:
        if (number, attempt + 1, kind) not in again:
            assert kind != "update" or summary["stopped"] == "budget exhausted"
            assert (kind in {"statistics", "profile"}) == (summary["stopped"] == "no contexts")


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "none"])
def test_a_run_killed_again_while_it_is_resumed_is_resumed_all_the_same(walk, seed):
    """A kill in the middle of mending: every sixth state of the disk, and each eighth step of its resume."""
    sets = ["secure_aggregation=ideal", f"seed={seed}"]
    for step, mode, name in cases(walk, *sets)[6::6]:
        for again in range(1, 60, 8):
            killed = Killed(walk, step, mode, *sets)
            where = f"killed {mode} step {step}, {name}, and at step {again} of the resume"
            code = walk.resume(killed.folder, Fault(killed.folder, again, mode))
            assert code in {0, -signal.SIGKILL}, (where, killed.error())
            if code == 0:  # the resume has fewer steps
                break
            assert resumed(walk, killed) is not None, where
            check_payments(killed.folder)
            check_wire(killed.folder, seeded=seed != "none")
            check_budget(killed.folder, walk.job)

"""One run of a deployed server: its folder, its constants, and the rounds from wherever they stand.

::

    runs/run-0001-3fa9c1/job.json        what the run was begun with: configuration, catalogue, clients
    runs/run-0001-3fa9c1/ledger.jsonl    and checkpoint, rounds, orders, as everywhere
    runs/run-0001-3fa9c1/summary.json    the run has ended; last of all
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.serverapp import Grid

from server.checkpoint import State, load_state, used_by
from server.coordinator import run_rounds
from server.desk import Desk
from server.ending import Ending, conclude
from server.enrolling import Enrolled
from server.house import House, ServerConfig
from server.job import Job, initial_state, make_job
from server.logs import event
from server.posterior import given_out
from server.publishing import Given
from server.resuming import CHECKPOINT, SERVER_LEDGER, begun, begun_with, caught_up, drop_rows, tidy, whole
from server.rows import Row
from server.stock import catalogue_of_stock
from server.summary import summary_of
from shared.config import validate
from shared.errors import RunError
from shared.files import write_atomically
from shared.keys import own_key
from shared.privacy.ledger import Ledger, create_ledger, open_ledger
from shared.privacy.noise import os_noise
from shared.privacy.participation import eligible
from shared.privacy.plan import plan_to_dict
from shared.publication import PublishedModel

JOB: Final = "job.json"
SUMMARY: Final = "summary.json"


@dataclass(frozen=True)
class Run:
    """A run that was begun.

    Attributes:
        folder: of the run.
        job: its constants; ``job.nodes`` are all who take part.
        identities: client -> its registered key.
    """

    folder: Path
    job: Job
    identities: Mapping[str, bytes]

    @property
    def name(self) -> str:
        """As the ledgers have it."""
        return self.job.run

    def needed(self, state: State, gone: frozenset[str]) -> tuple[frozenset[str], int]:
        """Who can be asked for another update, and how many of them must be there for a round to be of use.

        Args:
            state: after the last round.
            gone: clients that were shut out meanwhile.

        Returns:
            The clients, and a number that is 0 where no wait would help: too few have a participation left.
        """
        plan = self.job.plan
        left = frozenset(eligible(self.job.clients, used_by(state, "update"), plan.update.participations)) - gone
        least = max(1, plan.smallest_cohort)
        return left, least if len(left) >= least else 0


def runs_of(house: House) -> tuple[Path, ...]:
    """The folders of all runs, oldest first; one without its job was never begun."""
    return tuple(sorted(path.parent for path in house.runs.glob(f"*/{JOB}")))


def has_ended(folder: Path) -> bool:
    """Whether a run has ended, and said so."""
    return (folder / SUMMARY).exists()


def begin_run(house: House, config: ServerConfig, catalogue: str, clients: Sequence[Enrolled]) -> Path:
    """A folder for a new run.

    Args:
        house: the server's.
        config: in force for the whole run.
        catalogue: version that it trains with.
        clients: who takes part.

    Raises:
        OSError: the disk refuses.
    """
    folder = house.runs / f"run-{len(runs_of(house)) + 1:04d}-{secrets.token_hex(3)}"
    job = {
        "config": config.model_dump(mode="json"),
        "catalogue": catalogue,
        "clients": {each.name: {"node": each.node, "identity": each.identity} for each in clients},
    }
    write_atomically(folder / JOB, json.dumps(job, indent=1).encode())
    return folder


def open_run(house: House, folder: Path) -> Run:
    """A run that was begun, to go on with.

    Raises:
        FedrecallError: what is on disk is not what the run began with; says what.
    """
    path = folder / JOB
    try:
        raw = json.loads(path.read_bytes())
        clients: Mapping[str, Mapping[str, Any]] = raw["clients"]
        nodes = {name: int(client["node"]) for name, client in clients.items()}
        identities = {name: bytes.fromhex(client["identity"]) for name, client in clients.items()}
        config, version = validate(ServerConfig, raw["config"], str(path)), str(raw["catalogue"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: not what this server wrote ({type(error).__name__}); put it back") from error
    users = config.service.users_per_client
    job = make_job(
        folder.name,
        config,
        catalogue_of_stock(house, version),
        nodes,
        users_per_client=users,
        users=users * len(nodes),
        kind="deployment",
    )
    if begun(folder / SERVER_LEDGER) and not begun_with(folder, job.catalogue, plan_to_dict(job.plan)):
        raise RunError(f"{folder}: catalogue or code are not those that this run began with; put them back")
    return Run(folder, job, identities)


def given_of(run: Run, state: State) -> Given | None:
    """The model of a state, as it is given out; once the run has ended, the one that it ended with.

    It is None before the first round, when there is nothing to serve with.

    Raises:
        RunError: the best model's checkpoint is missing or broken.
    """
    model = state if state.stopped is None else conclude(state, state.stopped, run.folder).model
    if model.round < 1:
        return None
    job = run.job
    parameters = given_out(job.encoder, model)
    published = PublishedModel(job.encoder, parameters, model.prior, job.catalogue, model.policy, job.rules)
    return Given(run.name, model.round, state.trending, published)


@dataclass(frozen=True)
class Hooks:
    """What the run loop does meanwhile.

    Attributes:
        opened: gets the run's ledger.
        between: called before the first round and after every round, with the state; returns the clients that are to
            be asked next.
    """

    opened: Callable[[Ledger], None]
    between: Callable[[State], Sequence[str]]


def carry_on(house: House, run: Run, grid: Grid, hooks: Hooks) -> Ending:
    """All rounds that are left.

    Raises:
        FedrecallError: the ledger or the checkpoint is broken.
        OSError: the disk refuses; what was paid for is on it.
    """
    folder, job = run.folder, run.job
    tidy(folder)
    closed = load_state(folder / CHECKPOINT) if (folder / CHECKPOINT).exists() else None
    whole(folder, closed)
    ledger = _ledger(house, run)
    present = dict(job.nodes)  # whom a round asks; changed between rounds, when nobody looks at it

    def settle(state: State) -> None:
        names = frozenset(hooks.between(state))
        present.clear()
        present.update({name: node for name, node in job.nodes.items() if name in names})

    def tell(row: Row) -> None:
        event("round", run=run.name, round=row["round"], seconds=row["seconds"], cohort=row["cohort"])
        settle(load_state(folder / CHECKPOINT))

    try:
        state, attempts = _resumed(run, closed or _first_state(house, run), ledger)
        hooks.opened(ledger)
        if state.stopped is None:
            settle(state)
        desk = Desk(
            grid=grid,
            ledger=ledger,
            folder=folder,
            noise=lambda _round, _release: os_noise(),
            rng=lambda _round, _purpose: np.random.default_rng(),
            oracle=lambda _state, _measured: None,
            masked=True,
            registered=frozenset(run.identities.values()),
            ledgers=lambda: {SERVER_LEDGER: ledger.count},
            attempts=attempts,
            tell=tell,
        )
        return run_rounds(replace(job, nodes=present), desk, state)
    finally:
        ledger.close()


def close_run(run: Run, ending: Ending) -> None:
    """Write the summary: the run has ended, and is not opened again.

    Raises:
        OSError: the disk refuses.
    """
    users = run.job.users_per_client * len(run.job.nodes)
    content = json.dumps(summary_of(run.job, ending, users), indent=1)
    write_atomically(run.folder / SUMMARY, content.encode())


def _first_state(house: House, run: Run) -> State:
    """Before the first round. Receipts go on from the run before: they end with a client's ledger, not with a run.

    So a device that was put back from a backup between two runs finds out in the next one's first task, and what it
    forgot is not spent again.
    """
    earlier = (folder / CHECKPOINT for folder in reversed(runs_of(house)) if folder.name < run.folder.name)
    last = next((path for path in earlier if path.exists()), None)
    state = initial_state(run.job, np.random.default_rng())
    return state if last is None else replace(state, receipts=load_state(last).receipts)


def _resumed(run: Run, state: State, ledger: Ledger) -> tuple[State, dict[Any, int]]:
    """Where the run stands by checkpoint and ledger, and the tries of the round that was cut short."""
    if ledger.count < state.ledgers.get(SERVER_LEDGER, 0):
        raise RunError(f"{ledger.path}: holds {ledger.count} lines, fewer than the checkpoint counts: lines were lost")
    state, attempts = caught_up(state, ledger.path)
    drop_rows(run.folder / "rounds.jsonl", state.round)
    return state, attempts


def _ledger(house: House, run: Run) -> Ledger:
    path, key = run.folder / SERVER_LEDGER, own_key(house.ledger_key)
    if begun(path):
        return open_ledger(path, key)
    path.unlink(missing_ok=True)
    house.begin.unlink(missing_ok=True)  # this run is what was asked for
    job = run.job
    genesis = {"kind": "deployment", "run": job.run, "plan": plan_to_dict(job.plan), "catalogue": job.catalogue}
    return create_ledger(path, key, genesis)
